import { expect, test } from "vitest";
import { promptText } from "../../dist/farm/engine/chat-prompt.js";

const words = {
  template: "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
  bos: "<s>",
  eos: "</s>",
};
const turns = [{ role: "user" as const, content: "hi" }];

test("a template's own BOS is not written twice; of plain text it is no token, so it does not stand in for one", () => {
  expect(promptText({ turns, chatml: false }, words)).toEqual({ text: "<s>hi", special: true, hasBos: true });
  expect(promptText({ text: "<s>hi" }, words)).toEqual({ text: "<s>hi", special: false, hasBos: false });
  expect(promptText({ turns, chatml: true }, words)).toMatchObject({ special: true, hasBos: false });
  expect(promptText({ turns, chatml: false }, { ...words, template: undefined })).toEqual({
    text: "hi",
    special: false,
    hasBos: false,
  });
});
