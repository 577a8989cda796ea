import { spawn } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { ChildBody } from "../../dist/farm/engine/child-engine.js";
import { type Ask, type BodySpec, greedyAsk } from "../../dist/farm/engine/engine.js";
import { hasLlamaLibrary } from "../../dist/farm/engine/load-library.js";
import { residentBytes } from "../../dist/farm/engine/process-memory.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";

process.env.LLAMA_ENGINE ??= fileURLToPath(new URL("../../.llama-engine", import.meta.url));
const folder = temporaryFolder();
const file = join(folder, "loam.gguf");
const recorded = fileURLToPath(new URL("./llama-server.mjs", import.meta.url));
/** A llama-server of one's own: LLAMA_SERVER=<path> runs the last tests, too. */
const real = process.env.LLAMA_SERVER;
if (real === undefined) console.log("skipped: a real llama-server, LLAMA_SERVER names none");

const specOf = (path: string, more: Partial<BodySpec> = {}): BodySpec => ({
  body: "loam",
  file,
  form: "f32",
  context: 128,
  sequences: 2,
  threads: 1,
  gpuLayers: 0,
  engine: { kind: "llama-server", path, args: [] },
  ...more,
});

async function started(spec: BodySpec, onStart: (pid: number) => Promise<void> = async () => {}): Promise<ChildBody> {
  const body = new ChildBody(spec);
  await body.load(onStart);
  return body;
}

async function answered(body: ChildBody, ask: Partial<Ask> & Pick<Ask, "prompt">, most = 200) {
  let streamed = "";
  const given = { ...greedyAsk(ask.prompt, most), ...ask };
  const found = await body.ask(given, (text) => (streamed += text), new AbortController().signal);
  expect(streamed).toBe(found.text);
  return found;
}

const freePort = () =>
  new Promise<number>((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });

const asked = () =>
  readFileSync(`${file}.asked`, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

beforeAll(() => exportGguf(LOAM, file, { type: "F32" }));

describe("llama-server, as a real one was recorded", () => {
  let body: ChildBody;
  const pids: number[] = [];

  beforeAll(async () => {
    body = await started(specOf(recorded), async (pid) => void pids.push(pid));
  });
  afterAll(() => body?.stop());

  test("every process is told, the server's own beside the child's, so that a killed farm's are found", async () => {
    expect(pids).toEqual([body.pid, ...body.loaded.pids]);
    expect(pids).toHaveLength(2);
  });

  test("the ChatML that a server shows where the model has no template is not the model's", async () => {
    expect(body.loaded.hasChatTemplate).toBe(false);
    const { text } = await answered(body, { prompt: { turns: [{ role: "user", content: "hi" }], chatml: false } });
    expect(text).toBe("hi");
  });

  test("of a server elsewhere the tokens say it: a model that speaks ChatML has ChatML's", async () => {
    const chatml = join(folder, "chatml.gguf");
    copyFileSync(file, chatml);
    for (const [model, isOwn] of [
      [file, false],
      [chatml, true],
    ] as const) {
      const served = await started(specOf(recorded, { file: model }));
      const [pid] = served.loaded.pids;
      const port = /--port\0(\d+)/.exec(readFileSync(`/proc/${pid}/cmdline`, "utf8"))![1];
      const engine = { kind: "llama-server" as const, address: `http://127.0.0.1:${port}/`, args: [] };
      const elsewhere = await started(specOf(recorded, { file: "", engine }));
      expect(elsewhere.loaded.hasChatTemplate).toBe(isOwn);
      await elsewhere.stop();
      await served.stop();
    }
  });

  test("a key from the environment reaches the server and every request, and no list of processes", async () => {
    process.env.PHYSARIUM_TEST_KEY = "s3cret-of-the-test";
    const engine = { kind: "llama-server", path: recorded, args: [], apiKeyEnv: "PHYSARIUM_TEST_KEY" } as const;
    const pids: number[] = [];
    const keyed = await started(specOf(recorded, { engine }), async (pid) => void pids.push(pid));
    try {
      expect((await answered(keyed, { prompt: { text: "abc" } })).text).toBe("abc");
      const lines = pids.map((pid) => readFileSync(`/proc/${pid}/cmdline`, "utf8"));
      expect(lines.some((line) => line.includes("llama-server.mjs"))).toBe(true);
      for (const line of lines) expect(line).not.toContain("s3cret");
      expect(await keyed.call({ what: "speed", threads: [1] })).toHaveLength(1);
    } finally {
      await keyed.stop();
    }
  });

  test("a server elsewhere that demands a key: without it, and with another, one sentence that shows none", async () => {
    const port = await freePort();
    const words = ["--model", file, "--port", `${port}`, "--ctx-size", "256", "--parallel", "2"];
    const server = spawn(process.execPath, [recorded, ...words], {
      env: { ...process.env, LLAMA_API_KEY: "right-one" },
    });
    try {
      const address = `http://127.0.0.1:${port}`;
      const load = (more: object) =>
        started(specOf(recorded, { file: "", engine: { kind: "llama-server", address, args: [], ...more } }));
      process.env.PHYSARIUM_TEST_KEY = "wrong-one";
      const refused = [{}, { apiKeyEnv: "PHYSARIUM_TEST_KEY" }].map((more) => load(more).catch((error) => error));
      for (const error of await Promise.all(refused)) {
        expect(error).toMatchObject({ code: "USAGE_ENGINE" });
        expect(error.message).toMatch(/demands one; engine\.api_key_env names its variable \(it answered 401\)/);
        expect(JSON.stringify(error) + error.message).not.toMatch(/right-one|wrong-one/);
      }
      process.env.PHYSARIUM_TEST_KEY = "right-one\n";
      const broken = await load({ apiKeyEnv: "PHYSARIUM_TEST_KEY" }).catch((error) => error);
      expect(broken.message).toMatch(/PHYSARIUM_TEST_KEY, and what it holds is no key/);
      expect(broken.message).not.toContain("right-one");
      const unset = await load({ apiKeyEnv: "PHYSARIUM_TEST_NO_KEY" }).catch((error) => error);
      expect(unset.message).toMatch(/PHYSARIUM_TEST_NO_KEY, and it is not set/);
      process.env.PHYSARIUM_TEST_KEY = "right-one";
      const body = await load({ apiKeyEnv: "PHYSARIUM_TEST_KEY" });
      expect((await answered(body, { prompt: { text: "abc" } })).text).toBe("abc");
      await body.stop();
    } finally {
      server.kill();
    }
  });

  test("the farm's context holds, though a server's slots are rounded up", async () => {
    const long = { text: "a".repeat(127) };
    await expect(answered(body, { prompt: { text: "a".repeat(128) } })).rejects.toMatchObject({
      code: "USAGE_PROMPT",
      message: expect.stringContaining("129 tokens, the body's context 128"),
    });
    await expect(answered(body, { prompt: long })).rejects.toMatchObject({ code: "USAGE_PROMPT" });
    await answered(body, { prompt: { text: "a".repeat(120) } });
    // 120 letters and the BOS: seven are left of 128.
    expect(asked().at(-1)).toMatchObject({ n_predict: 7 });
  });

  test("the token that ends an answer is counted by the server, and not by us", async () => {
    expect(await answered(body, { prompt: { text: "abc" } })).toMatchObject({ finish: "stop", completionTokens: 3 });
    expect(await answered(body, { prompt: { text: "abc" } }, 2)).toMatchObject({
      finish: "length",
      completionTokens: 2,
    });
  });

  test("any JSON is asked for by a grammar: an empty schema the server takes for none", async () => {
    const found = await answered(body, { prompt: { text: "{}" }, grammar: "json" });
    expect(asked().at(-1)).toMatchObject({ grammar: expect.stringContaining("root ::= object") });
    expect(asked().at(-1).json_schema).toBeUndefined();
    expect(found.constrained).toBe(true);
  });

  test("a schema that the server lets go, or refuses, is not said to have held", async () => {
    const schema = { type: "object" };
    expect((await answered(body, { prompt: { text: "no" }, grammar: { schema } })).constrained).toBe(false);
    expect((await answered(body, { prompt: { text: '{"a":1}' }, grammar: { schema } })).constrained).toBe(true);
    const refused = await answered(body, { prompt: { text: "{}" }, grammar: { schema: { type: "unknown" } } });
    expect(refused).toMatchObject({ text: "{}", constrained: false });
  });

  test("an error in the middle of a stream is one, not the end of the answer", async () => {
    await expect(answered(body, { prompt: { text: "break" } })).rejects.toMatchObject({
      code: "IO_ENGINE",
      message: expect.stringContaining("Compute error."),
    });
  });

  test("distributions: no number is none, the server's least float is a small probability, vocabularies are large", async () => {
    const { values, places } = await body.call<{ values: Float32Array; places: number }>({
      what: "distributions",
      ids: [1, 2],
      from: 1,
    });
    expect(places).toBe(1);
    expect(values).toHaveLength(130_000);
    expect(values[0]).toBe(-0.5);
    expect(values[1]).toBeNaN();
    expect(values[2]).toBeCloseTo(Math.log(2 ** -149), 3);
  });

  test("tokens a second by threads: each count in a server of its own, gone afterwards", async () => {
    const told: number[] = [];
    const other = await started(specOf(recorded), async (pid) => void told.push(pid));
    const speeds = await other.call<{ threads: number }[]>({ what: "speed", threads: [1, 2] });
    expect(speeds.map(({ threads }) => threads)).toEqual([1, 2]);
    expect(told).toHaveLength(4);
    for (const pid of told.slice(2)) expect(await residentBytes(pid)).toBe(0);
    await other.stop();
    for (const pid of told) expect(await residentBytes(pid)).toBe(0);
  });

  test("a server that is not there is said within seconds; one that ends takes its body along", async () => {
    const engine = { kind: "llama-server" as const, address: "http://127.0.0.1:9", args: [] };
    const nowhere = started(specOf(recorded, { file: "", engine }));
    await expect(nowhere).rejects.toMatchObject({ code: "USAGE_ENGINE", message: expect.stringContaining("start it") });
    await expect(started(specOf(join(folder, "none")))).rejects.toMatchObject({ code: "USAGE_ENGINE" });
    const other = await started(specOf(recorded));
    const ended = new Promise((resolve) => other.onExit(resolve));
    process.kill(other.loaded.pids[0], "SIGKILL");
    expect(await ended).toBe("exit 1");
  }, 20_000);
});

describe.runIf(real !== undefined && (await hasLlamaLibrary()))("a real llama-server beside node-llama-cpp", () => {
  test("the same tokens, texts, ends and distributions", async () => {
    const bodies = [await started(specOf(real!)), await started(specOf("", { engine: { kind: "node-llama-cpp" } }))];
    const prompts: Ask["prompt"][] = [
      { text: "Once upon a time" },
      { turns: [{ role: "user", content: "The dog<|endoftext|> was" }], chatml: true },
      { turns: [{ role: "user", content: "Zażółć 東京" }], chatml: false },
    ];
    for (const prompt of prompts) {
      const [first, second] = await Promise.all(bodies.map((body) => answered(body, { prompt }, 24)));
      expect(first).toEqual(second);
      const [ids, others] = await Promise.all(bodies.map((body) => body.call<number[]>({ what: "tokens", prompt })));
      expect(ids).toEqual(others);
      const [p, q] = await Promise.all(
        bodies.map((body) => body.call<{ values: Float32Array }>({ what: "distributions", ids, from: 1 })),
      );
      expect(p.values).toHaveLength(q.values.length);
      for (let at = 0; at < p.values.length; at += 97) {
        if (p.values[at] > -20) expect(p.values[at]).toBeCloseTo(q.values[at], 2);
      }
    }
    for (const body of bodies) await body.stop();
  }, 60_000);
});
