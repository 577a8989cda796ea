import { cpSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { FolderSource } from "../../dist/checkpoint/folder-source.js";
import { renderChat } from "../../dist/probe/text/chat-template.js";
import type { Limits } from "../../dist/probe/text/confined-process.js";
import { TextTokenizer } from "../../dist/probe/text/tokenizer.js";
import { LOAM } from "../probe/engine-present.js";
import { temporaryFolder as folderOfThisFile } from "../temporary.js";

/** All folders stand in one that is removed afterwards: a hook that a running test adds does not run. */
const BASE = folderOfThisFile();

function temporaryFolder(): string {
  return mkdtempSync(join(BASE, "t-"));
}

/** Shorter than what users get, so that the tests are; all attacks would run for hours or abort Node. */
const LIMITS: Limits = { heapBytes: 2 ** 27, jobMilliseconds: 1_500 };

const VOCAB = Object.fromEntries([..." abcdefghijklmnopqrstuvwxyz"].map((letter, id) => [letter, id]));

interface Changes {
  readonly [field: string]: unknown;
}

function folderWith(changes: Changes, files: Record<string, string> = {}, model: Changes = {}): string {
  const folder = temporaryFolder();
  const json = {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: { type: "BPE", vocab: VOCAB, merges: [], ...model },
    ...changes,
  };
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(json));
  writeFileSync(join(folder, "tokenizer_config.json"), "{}");
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  return folder;
}

const replaceAll = (text: string, content: string) => ({ type: "Replace", pattern: { String: text }, content });
const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false });

const LETTERS = `${"a".repeat(40)}b`;
const attacks: [string, () => string, string][] = [
  ["a pattern that backtracks", () => folderWith({ pre_tokenizer: split("(a+)+$") }), LETTERS],
  [
    "a normalizer's pattern that backtracks",
    () => folderWith({ normalizer: { ...replaceAll("", "x"), pattern: { Regex: "(a|aa)+$" } } }),
    LETTERS,
  ],
  [
    "replacements that multiply",
    () =>
      folderWith({
        normalizer: {
          type: "Sequence",
          normalizers: Array.from({ length: 8 }, () => replaceAll("a", "a".repeat(1000))),
        },
      }),
    LETTERS,
  ],
  [
    "one replacement that fills the memory",
    () => folderWith({ normalizer: replaceAll("a", "a".repeat(3_000_000)) }),
    LETTERS,
  ],
  ["a fraction as id", () => folderWith({}, {}, { vocab: { ...VOCAB, a: 1.5 } }), "abc"],
  ["an id past every vocabulary", () => folderWith({}, {}, { vocab: { ...VOCAB, a: 2 ** 40 } }), "abc"],
  ["an id that is text", () => folderWith({}, {}, { vocab: { ...VOCAB, a: "1" } }), "abc"],
  ["an empty added token", () => folderWith({ added_tokens: [{ id: 3, content: "" }] }), "abc"],
  ["no model", () => folderWith({ model: null }), "abc"],
  ["a pre-tokenizer nobody knows", () => folderWith({ pre_tokenizer: { type: "Sandwich" } }), "abc"],
];

for (const [name, write, text] of attacks) {
  test(`tokenizer: ${name} ends with an error, and Node lives`, async () => {
    const folder = write();
    const started = performance.now();
    const encode = TextTokenizer.with(folder, { limits: LIMITS }, (tokenizer) => tokenizer.encode(text));
    await expect(encode).rejects.toMatchObject({ code: "DONOR_TOKENIZER", message: expect.stringContaining(folder) });
    expect(performance.now() - started).toBeLessThan(20_000);
  });
}

test("tokenizer: a vocabulary larger than its memory is refused", async () => {
  const vocab: Record<string, number> = {};
  for (let id = 0; id < 400_000; id++) vocab[`token number ${id}`] = id;
  const opened = TextTokenizer.open(folderWith({}, {}, { vocab }), {
    limits: { heapBytes: 2 ** 26, jobMilliseconds: 30_000 },
  });
  await expect(opened).rejects.toMatchObject({ code: "DONOR_TOKENIZER", message: expect.stringContaining("memory") });
});

const templates: [string, string][] = [
  ["a range without end", "{% for i in range(1000000000) %}{% endfor %}"],
  ["loops in loops", `${"{% for i in range(3000) %}".repeat(4)}x${"{% endfor %}".repeat(4)}`],
  [
    "text that doubles",
    "{% set ns = namespace(t='aa') %}{% for i in range(64) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
  ],
  ["more text than a conversation has", "{% for i in range(500000) %}{{ 'spread over the page' }}{% endfor %}"],
];

for (const [name, template] of templates) {
  test(`chat template: ${name} ends with an error, and Node lives`, async () => {
    const folder = folderWith({}, { "chat_template.jinja": template });
    await TextTokenizer.with(folder, { limits: LIMITS }, async (tokenizer) => {
      const rendered = renderChat(new FolderSource(folder), tokenizer, [{ role: "user", content: "Hello" }]);
      await expect(rendered).rejects.toMatchObject({ code: "DONOR_CHAT_TEMPLATE" });
    });
  });
}

test("a signal ends the middle of a text, within a second", async () => {
  const stop = new AbortController();
  const folder = folderWith({ pre_tokenizer: split("(a+)+$") });
  const tokenizer = await TextTokenizer.open(folder, { signal: stop.signal });
  const encoded = tokenizer.encode(LETTERS);
  setTimeout(() => stop.abort(), 100);
  const started = performance.now();
  await expect(encoded).rejects.toMatchObject({ code: "STOPPED" });
  expect(performance.now() - started).toBeLessThan(1100);
  await expect(tokenizer.encode("a")).rejects.toMatchObject({ code: "STOPPED" });
});

test("a failure of the library itself is told in its words", async () => {
  const folder = folderWith({ pre_tokenizer: split("(a+)+$") });
  await TextTokenizer.with(folder, { limits: LIMITS }, (tokenizer) =>
    expect(tokenizer.encode(LETTERS)).rejects.toThrow("retry-limit-in-match over"),
  );
});

test("after a job that took too long the next one is answered", async () => {
  const folder = folderWith({ pre_tokenizer: split("(a+)+$") });
  await TextTokenizer.with(folder, { limits: LIMITS }, async (tokenizer) => {
    await expect(tokenizer.encode(LETTERS)).rejects.toMatchObject({ code: "DONOR_TOKENIZER" });
    expect(await tokenizer.encode("cab")).toEqual([3, 1, 2]);
  });
});

test("chat templates: in the places where the reference looks, and by its order", async () => {
  const user = [{ role: "user", content: "Hello" }] as const;
  const own = { "chat_template.jinja": "own" };
  const config = (value: unknown) => ({ "tokenizer_config.json": JSON.stringify({ chat_template: value }) });
  const processor = { "chat_template.json": JSON.stringify({ chat_template: "processor" }) };
  const cases: [Record<string, string>, string][] = [
    [{ ...own, ...config("config"), ...processor }, "own"],
    [
      {
        ...config([
          { name: "tool_use", template: "no" },
          { name: "default", template: "listed" },
        ]),
        ...processor,
      },
      "listed",
    ],
    [config({ default: "by name", rag: "no" }), "by name"],
    [processor, "processor"],
  ];
  for (const [files, expected] of cases) {
    const folder = folderWith({}, files);
    await TextTokenizer.with(folder, {}, async (tokenizer) => {
      expect(await renderChat(new FolderSource(folder), tokenizer, user)).toBe(expected);
    });
  }
  const folder = folderWith({}, config([{ name: "tool_use", template: "no" }]));
  await TextTokenizer.with(folder, {}, (tokenizer) =>
    expect(renderChat(new FolderSource(folder), tokenizer, user)).rejects.toMatchObject({
      code: "DONOR_CHAT_TEMPLATE",
      message: expect.stringContaining("tool_use"),
    }),
  );
});

test("an idle tokenizer lets Node end", async () => {
  const folder = temporaryFolder();
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(LOAM, file), join(folder, file));
  const script = `import { TextTokenizer } from ${JSON.stringify(new URL("../../dist/probe/text/tokenizer.js", import.meta.url))};
    const t = await TextTokenizer.open(${JSON.stringify(folder)}); console.log((await t.encode("Tom")).length);`;
  const { execFileSync } = await import("node:child_process");
  const said = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    timeout: 20_000,
  });
  expect(said.trim()).toMatch(/^\d+$/);
});
