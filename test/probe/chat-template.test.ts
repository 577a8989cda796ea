import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { FolderSource } from "../../dist/checkpoint/folder-source.js";
import { StreamDecoder } from "../../dist/probe/generate.js";
import { renderChat } from "../../dist/probe/text/chat-template.js";
import { TextTokenizer } from "../../dist/probe/text/tokenizer.js";
import { LOAM } from "./engine-present.js";
import { temporaryFolder } from "./tiny-model.js";

const TEMPLATE =
  "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
const EXPECTED = "<|user|>Hello<|endoftext|><|assistant|>";

async function folderWith(files: Record<string, string>): Promise<[string, TextTokenizer]> {
  const folder = temporaryFolder();
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(LOAM, file), join(folder, file));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  return [folder, await TextTokenizer.open(folder)];
}

describe("chat templates", () => {
  const user = [{ role: "user", content: "Hello" }] as const;

  test("come from their own file, or from the tokenizer's configuration, alone or by name", async () => {
    const config = { eos_token: "<|endoftext|>" };
    const named = [
      { name: "tool_use", template: "no" },
      { name: "default", template: TEMPLATE },
    ];
    for (const files of [
      { "chat_template.jinja": TEMPLATE },
      { "tokenizer_config.json": JSON.stringify({ ...config, chat_template: TEMPLATE }) },
      { "tokenizer_config.json": JSON.stringify({ ...config, chat_template: named }) },
    ] as Record<string, string>[]) {
      const [folder, tokenizer] = await folderWith(files);
      expect(await renderChat(new FolderSource(folder), tokenizer, user)).toBe(EXPECTED);
    }
  });

  test("a missing or broken one is said", async () => {
    for (const files of [{}, { "chat_template.jinja": "{% for %}" }] as Record<string, string>[]) {
      const [folder, tokenizer] = await folderWith(files);
      await expect(renderChat(new FolderSource(folder), tokenizer, user)).rejects.toMatchObject({
        code: "DONOR_CHAT_TEMPLATE",
      });
    }
  });
});

test("streamed pieces are the text, and no piece is half a character", async () => {
  const tokenizer = await TextTokenizer.open(LOAM);
  const text = " said “naïve café” – 猫 🦊 !";
  const prompt = await tokenizer.encode("Tom");
  const decoder = await StreamDecoder.after(prompt, tokenizer);
  const pieces: string[] = [];
  for (const id of await tokenizer.encode(text)) pieces.push(await decoder.push(id));
  pieces.push(await decoder.end());
  expect(pieces.join("")).toBe(text);
  expect(pieces.some((piece) => piece.includes("�"))).toBe(false);
  // What never becomes a character comes out at the end, and only there.
  const half = await StreamDecoder.after(prompt, tokenizer);
  const cut: string[] = [];
  for (const id of (await tokenizer.encode("猫")).slice(0, 2)) cut.push(await half.push(id));
  expect(cut.join("")).toBe("");
  expect(await half.end()).toMatch(/^�+$/);
});

test("bytes of tokens add up to the bytes of the text", async () => {
  const tokenizer = await TextTokenizer.open(LOAM);
  const text = "Lily’s café – 猫 and dog.\n";
  const bytes = (await tokenizer.encode(text)).reduce((sum, id) => sum + tokenizer.byteLengthOf(id)!, 0);
  expect(bytes).toBe(new TextEncoder().encode(text).length);
});
