import { readFileSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readJournal } from "../../dist/farm/state/journal.js";
import { temporaryFolder } from "../temporary.js";
import { admittedFolder, fakeEngine, LEDGER, startFarm } from "./fake-service.js";

type Running = Awaited<ReturnType<typeof startFarm>>;

const body = { source: "loam", context: 128, sequences: 2, queue: 3 };
const organ = (name: string, more: object = {}) => ({
  name,
  body: "a",
  tier: "RAM",
  max_tokens: 64,
  retries: 0,
  ...more,
});
let folder: string;
let farm: Running;
let client: OpenAI;

beforeAll(async () => {
  folder = temporaryFolder();
  writeFileSync(
    join(folder, "schema.json"),
    '{"type":"object","required":["a"],"properties":{"a":{"type":"integer"}}}',
  );
  writeFileSync(join(folder, "template.txt"), "say: {{input}}");
  admittedFolder(folder, {
    bodies: { a: body },
    organs: [
      organ("echo"),
      organ("strict", { verifier: "json_strict" }),
      organ("schema", { verifier: "json_schema", schema: "schema.json", retries: 2 }),
      organ("code", { verifier: "code_compile" }),
      organ("python", { verifier: "code_compile", language: "python" }),
      organ("source", { verifier: "source_present" }),
      organ("hard", { verifier: "hard_verifier", command: ["grep", "-q", "good"] }),
      organ("slow_check", { verifier: "command", command: ["sleep", "20"], command_timeout: "200ms" }),
      organ("templated", { prompt_template: "template.txt", preamble: "be kind", use_chatml: false }),
    ],
  });
  farm = await startFarm(folder, fakeEngine({ tokenMs: 2, crashOn: "CRASH" }), { allowCommands: true });
  client = new OpenAI({ baseURL: `${farm.address}/v1`, apiKey: "none", maxRetries: 0 });
});

afterAll(() => farm.close());

const ask = (model: string, content: string, more: object = {}) =>
  client.chat.completions.create({ model, messages: [{ role: "user", content }], ...more });
const post = (path: string, value: unknown, headers: Record<string, string> = {}) =>
  fetch(`${farm.address}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: typeof value === "string" ? value : JSON.stringify(value),
  });

describe("OpenAI's routes", () => {
  test("chat: text, usage, and where the answer is from", async () => {
    const { data, response } = await ask("echo", "one two three").withResponse();
    expect(data.choices[0].message.content).toBe("one two three");
    expect(data.usage).toEqual({ prompt_tokens: 3, completion_tokens: 3, total_tokens: 6 });
    expect(data).toMatchObject({
      physarium: { organ: "echo", body: "a", form: "q8_0", tier: "RAM", ledger_sha256: LEDGER, verdict: null },
    });
    expect(response.headers.get("x-physarium-ledger")).toBe(LEDGER);
  });

  test("streams: pieces in order, usage, the facts in the last chunk", async () => {
    const chunks = [];
    const stream = await client.chat.completions.create({
      model: "echo",
      messages: [{ role: "user", content: "one two three" }],
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const chunk of stream) chunks.push(chunk);
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("")).toBe("one two three");
    expect(chunks.filter((chunk) => chunk.choices[0]?.finish_reason === "stop")).toHaveLength(1);
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { total_tokens: 6 } });
    expect(chunks.at(-2)).toMatchObject({ physarium: { form: "q8_0", ledger_sha256: LEDGER } });
  });

  test("completions, stop, max_tokens", async () => {
    const done = await client.completions.create({ model: "a", prompt: "one two three", max_tokens: 2 });
    expect(done.choices[0]).toMatchObject({ text: "one two", finish_reason: "length" });
    const stopped = await client.completions.create({ model: "a", prompt: "one two three", stop: " tw" });
    expect(stopped.choices[0]).toMatchObject({ text: "one", finish_reason: "stop" });
  });

  test("models: every organ and body", async () => {
    const ids = (await client.models.list()).data.map(({ id }) => id);
    expect(ids).toEqual([
      "echo",
      "strict",
      "schema",
      "code",
      "python",
      "source",
      "hard",
      "slow_check",
      "templated",
      "a",
    ]);
    expect((await client.models.retrieve("echo")).id).toBe("echo");
  });

  test("a template and a preamble stand around what is asked", async () => {
    const { choices } = await ask("templated", "hello");
    expect(choices[0].message.content).toBe("be kind\nsay: hello");
  });

  test.each([
    [{ frequency_penalty: 0.5 }, "frequency_penalty"],
    [{ logprobs: true }, "logprobs"],
    [{ n: 2 }, "n"],
    [{ temperatur: 0 }, "temperatur"],
    [{ temperature: 3 }, "temperature"],
    [{ max_tokens: 0 }, "max_tokens"],
    [{ tools: [{ type: "function" }] }, "tools"],
    [{ response_format: { type: "json_schema", json_schema: { schema: { pattern: "(a+)+$" } } } }, "response_format"],
    [
      { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
      "messages[0].content",
    ],
    [{ messages: [] }, "messages"],
  ])("what it does not do is said: %j", async (more, param) => {
    const response = await post("/v1/chat/completions", {
      model: "echo",
      messages: [{ role: "user", content: "x" }],
      ...more,
    });
    expect(response.status).toBe(400);
    expect((await response.json()).error.param).toBe(param);
  });

  test("what changes nothing is taken, labels are named", async () => {
    const value = { model: "echo", messages: [{ role: "user", content: "x" }], n: 1, frequency_penalty: 0, user: "me" };
    const answer = await (await post("/v1/chat/completions", value)).json();
    expect(answer.physarium.no_effect).toEqual(["user"]);
  });

  test("an unknown model, no JSON, no route", async () => {
    await expect(ask("nobody", "x")).rejects.toMatchObject({ status: 404 });
    expect((await post("/v1/chat/completions", "{")).status).toBe(400);
    expect((await fetch(`${farm.address}/v1/nothing`)).status).toBe(404);
  });
});

describe("verifiers", () => {
  test.each([
    ["strict", '{"a":1}', true],
    ["strict", 'so {"a":1}', false],
    ["strict", '{"a":1,"a":2}', false],
    ["schema", '{"a":1}', true],
    ["schema", '{"a":"1"}', false],
    ["code", "const a = 1;", true],
    ["code", "const a = ;", false],
    ["code", "```js\nimport a from 'b'; await a();\n```", true],
    ["code", "```js\nimport a from ;\n```", false],
    ["code", "```cobol\nX.\n```", false],
    ["code", "```constructor\nx = 1\n```", false],
    ["python", "x = [i for i in range(3)]", true],
    ["python", "x = = 3", false],
    ["source", "the cat sat", true],
    ["hard", "it is good", true],
    ["hard", "it is bad", false],
    ["slow_check", "x", false],
  ])("%s on %s", async (model, content, passes) => {
    const response = await post("/v1/chat/completions", { model, messages: [{ role: "user", content }] });
    const answer = await response.json();
    if (passes) expect(answer.physarium?.verdict, JSON.stringify(answer)).toMatchObject({ passed: true });
    else {
      expect(response.status).toBe(422);
      expect(answer.error.verdict).toMatchObject({ passed: false, reason: expect.stringMatching(/.+/) });
      expect(answer.error.attempts).toBe(model === "schema" ? 3 : 1);
    }
  });

  test("a stream says in its last chunk that it did not pass", async () => {
    const last = [];
    const stream = await client.chat.completions.create({
      model: "strict",
      messages: [{ role: "user", content: "no json" }],
      stream: true,
    });
    for await (const chunk of stream) last.push(chunk);
    expect(last.at(-1)).toMatchObject({ physarium: { verdict: { verifier: "json_strict", passed: false } } });
  });

  test("a response format is checked where the organ checks nothing", async () => {
    await expect(ask("echo", "no", { response_format: { type: "json_object" } })).rejects.toMatchObject({
      status: 422,
    });
    const schema = { type: "object", required: ["b"] };
    const format = { type: "json_schema", json_schema: { name: "x", schema } };
    await expect(ask("echo", '{"a":1}', { response_format: format })).rejects.toMatchObject({ status: 422 });
    expect((await ask("echo", '{"b":1}', { response_format: format })).choices[0].message.content).toBe('{"b":1}');
  });

  test("a program is not run unless the start allows it", async () => {
    const other = admittedFolder(temporaryFolder(), {
      bodies: { a: body },
      organs: [organ("hard", { verifier: "command", command: ["true"] })],
    });
    await expect(startFarm(other, fakeEngine())).rejects.toMatchObject({ code: "USAGE_COMMANDS" });
  });
});

describe("queue, crash and leaving", () => {
  test("a full queue is 429 with Retry-After; everybody else is served", async () => {
    const many = await Promise.all(
      Array.from({ length: 12 }, () =>
        post("/v1/completions", { model: "a", prompt: "w ".repeat(60), max_tokens: 60 }),
      ),
    );
    const statuses = many.map(({ status }) => status);
    expect(statuses.filter((status) => status === 200).length).toBeGreaterThanOrEqual(5);
    const full = many.find(({ status }) => status === 429)!;
    expect(Number(full.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(new Set(statuses)).toEqual(new Set([200, 429]));
  });

  test("a client that leaves stops its own answer and no other", async () => {
    const leaver = new AbortController();
    const text = "word ".repeat(60).trim();
    const stays = client.completions.create({ model: "a", prompt: text, max_tokens: 60 });
    const stream = await client.completions.create(
      { model: "a", prompt: text, max_tokens: 60, stream: true },
      { signal: leaver.signal },
    );
    for await (const _ of stream) break;
    leaver.abort();
    expect((await stays).choices[0].text).toBe(text);
    const until = Date.now() + 5_000;
    const home = farm.service.runtime.homes.get("a")!;
    while (home.inFlight.size > 0 && Date.now() < until) await new Promise((wake) => setTimeout(wake, 10));
    expect(home.inFlight.size).toBe(0);
  });

  test("a deadline that passes is 504", async () => {
    const value = { model: "a", prompt: "w ".repeat(60), max_tokens: 60 };
    expect((await post("/v1/completions", value, { "x-physarium-deadline-ms": "20" })).status).toBe(504);
  });

  test("a body that crashes answers 503 once it has crashed twice, and serves others again", async () => {
    const response = await post("/v1/completions", { model: "a", prompt: "CRASH" });
    expect(response.status).toBe(503);
    expect((await ask("echo", "again")).choices[0].message.content).toBe("again");
  });
});

describe("the farm's own routes", () => {
  test.each(["/farm", "/v1/farm"])("%s: bodies, organs, history", async (prefix) => {
    const get = async (path: string) => (await fetch(`${farm.address}${prefix}${path}`)).json();
    expect((await get("/bodies")).bodies[0]).toMatchObject({ name: "a", status: "ready", form: "q8_0", tier: "RAM" });
    expect((await get("/organs")).organs[0]).toMatchObject({ name: "echo", body: "a", answers: expect.any(Number) });
    const { history } = await get("/history");
    expect(history.map(({ event }: { event: string }) => event)).toContain("answer");
  });

  test("events come as they happen", async () => {
    const leave = new AbortController();
    const response = await fetch(`${farm.address}/farm/events`, { signal: leave.signal });
    void ask("echo", "hello");
    let text = "";
    for await (const bytes of response.body!.pipeThrough(new TextDecoderStream())) {
      text += bytes;
      if (text.includes("event: answer")) break;
    }
    leave.abort();
    expect(text).toContain('"organ":"echo"');
  });

  test("healthz, readyz with a token for real, metrics", async () => {
    expect(await (await fetch(`${farm.address}/healthz`)).json()).toEqual({ status: "ok" });
    const ready = await fetch(`${farm.address}/readyz`);
    expect(ready.status).toBe(200);
    expect(await ready.json()).toMatchObject({ ready: true, probes: [{ body: "a", ok: true }] });
    const text = await (await fetch(`${farm.address}/metrics`)).text();
    expect(text).toMatch(/physarium_farm_requests_total\{organ="echo",status="200"\} \d/);
    expect(text).toMatch(/physarium_farm_memory_bytes\{body="a",tier="RAM"\} \d/);
    expect(text).not.toContain("nobody");
  });

  test("load, unload, pin", async () => {
    expect(await (await post("/farm/bodies/a/unload", {})).json()).toMatchObject({ status: "stopped" });
    expect(await (await post("/farm/bodies/a/load", {})).json()).toMatchObject({ status: "ready" });
    expect((await post("/farm/organs/echo/pin", {})).status).toBe(200);
    const state = () => JSON.parse(readFileSync(join(folder, "farm-state/tier_state.json"), "utf8"));
    expect(state().organs.echo.pinned).toBe(true);
    expect((await post("/farm/organs/echo/unpin", {})).status).toBe(200);
    expect(state().organs.echo.pinned).toBe(false);
    expect((await post("/farm/bodies/none/load", {})).status).toBe(404);
  });

  test("every answer that was acknowledged is in the journal", async () => {
    const before = (await readJournal(join(folder, "farm-state/journal.jsonl"))).filter(
      ({ event }) => event === "answer",
    ).length;
    await Promise.all(Array.from({ length: 4 }, (_, at) => ask("echo", `number ${at}`)));
    const after = (await readJournal(join(folder, "farm-state/journal.jsonl"))).filter(
      ({ event }) => event === "answer",
    ).length;
    expect(after - before).toBe(4);
  });
});

describe("who may ask", () => {
  test("another page's origin, another host's name, a body that is not JSON are refused", async () => {
    const { port } = new URL(farm.address);
    const status = (headers: Record<string, string>, method = "GET") =>
      new Promise((resolve, reject) => {
        const sent = request({ host: "127.0.0.1", port, path: "/farm", method, headers }, (response) => {
          response.resume();
          resolve(response.statusCode);
        });
        sent.on("error", reject);
        sent.end(method === "POST" ? "{}" : undefined);
      });
    expect(await status({ host: `127.0.0.1:${port}` })).toBe(200);
    expect(await status({ host: "evil.example" })).toBe(403);
    expect(await status({ origin: "http://evil.example" })).toBe(403);
    expect(await status({ "content-type": "text/plain" }, "POST")).toBe(415);
    const response = await fetch(`${farm.address}/farm`);
    expect(response.headers.get("access-control-allow-origin")).toBe(null);
  });

  test("bodies and headers have limits", async () => {
    const large = await post("/v1/completions", { model: "a", prompt: "x".repeat(5 << 20) });
    expect(large.status).toBe(413);
    const headed = await post("/v1/completions", { model: "a", prompt: "x" }, { "x-large": "y".repeat(20_000) });
    expect(headed.status).toBe(431);
  });

  test("another address demands a key; with a key nothing but the page and healthz is open", async () => {
    const other = admittedFolder(temporaryFolder(), { bodies: { a: body }, organs: [organ("echo")] });
    await expect(startFarm(other, fakeEngine(), { host: "0.0.0.0" })).rejects.toMatchObject({ code: "USAGE_API_KEY" });
    const keyed = await startFarm(
      admittedFolder(temporaryFolder(), { bodies: { a: body }, organs: [] }),
      fakeEngine(),
      { apiKey: "secret" },
    );
    const status = async (path: string, key?: string) =>
      (await fetch(`${keyed.address}${path}`, key === undefined ? {} : { headers: { authorization: `Bearer ${key}` } }))
        .status;
    expect([await status("/healthz"), await status("/"), await status("/page.js")]).toEqual([200, 200, 200]);
    for (const path of ["/v1/models", "/farm", "/farm/events", "/metrics", "/readyz"])
      expect(await status(path)).toBe(401);
    expect([await status("/v1/models", "secre"), await status("/v1/models", "secret!")]).toEqual([401, 401]);
    expect(await status("/v1/models", "secret")).toBe(200);
    await keyed.close();
  });

  test("the page runs its own script and nobody else's", async () => {
    const page = await fetch(`${farm.address}/`);
    expect(page.headers.get("content-security-policy")).toContain("script-src 'self'");
    expect(await page.text()).toContain("Organ farm");
  });
});
