import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ChildBody, childEngine } from "../../dist/farm/engine/child-engine.js";
import { hasLlamaLibrary } from "../../dist/farm/engine/load-library.js";
import { physarium } from "../physarium.js";
import { hasShared, LOAM, SHARED } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { startFarm } from "./fake-service.js";

process.env.LLAMA_ENGINE ??= fileURLToPath(new URL("../../.llama-engine", import.meta.url));
const isThere = await hasLlamaLibrary();
if (!isThere) console.log("skipped: the farm with its real engine, node-llama-cpp is not installed");

const folder = isThere ? temporaryFolder() : "";
const stories = join(SHARED, "donors/stories260K");
const bodies = hasShared ? { loam: "loam", tiny: "tiny" } : { loam: "loam" };

describe.runIf(isThere)("llama.cpp on operated loam and on stories260K", () => {
  let farm: Awaited<ReturnType<typeof startFarm>>;
  let client: OpenAI;
  const admissions: Record<string, Record<string, never>> = {};
  const admit = async (body: string) => {
    const { stdout, stderr, status } = await physarium(["farm", "admit", body, "--file", folder, "--json"]);
    return { status, stderr, admission: stdout === "" ? undefined : JSON.parse(stdout) };
  };
  const write = (more: object = {}) =>
    writeFileSync(
      join(folder, "organ_farm.json"),
      JSON.stringify({
        version: 1,
        budget: { RAM: "2GiB" },
        bodies: Object.fromEntries(
          Object.entries(bodies).map(([name, source]) => [
            name,
            {
              source,
              donor: name === "loam" ? "donor" : source,
              forms: ["q8_0", "q4_0"],
              context: 128,
              sequences: 2,
              threads: 1,
              ...more,
            },
          ]),
        ),
        organs: [
          { name: "story", body: "loam", tier: "RAM", max_tokens: 24, anchors: "anchors.jsonl" },
          { name: "data", body: "loam", tier: "RAM", max_tokens: 60, json_out: true, verifier: "json_strict" },
        ],
      }),
    );

  beforeAll(async () => {
    cpSync(LOAM, join(folder, "donor"), { recursive: true });
    expect((await physarium(["surgery", join(folder, "donor"), join(folder, "loam"), "--quiet"])).status).toBe(0);
    if (hasShared) cpSync(stories, join(folder, "tiny"), { recursive: true });
    writeFileSync(join(folder, "anchors.jsonl"), '{"prompt":"Once upon a time","must":"little (girl|boy)"}\n');
    write();
    for (const body of Object.keys(bodies)) {
      const { admission, stderr } = await admit(body);
      expect(admission?.accepted, stderr).toBe(true);
      admissions[body] = admission;
    }
    farm = await startFarm(folder, childEngine);
    client = new OpenAI({ baseURL: `${farm.address}/v1`, apiKey: "none", maxRetries: 0 });
  }, 240_000);

  afterAll(() => farm?.close());

  test("a packed source is admitted as it lies, to the same form", async () => {
    // Of the same name: it stands in the GGUF file.
    mkdirSync(join(folder, "packs"));
    const packed = await physarium(["pack", join(folder, "loam"), join(folder, "packs/loam"), "--quiet"]);
    expect(packed.status, packed.stderr).toBe(0);
    const file = JSON.parse(readFileSync(join(folder, "organ_farm.json"), "utf8"));
    const { loam } = file.bodies;
    const bodies = { ...file.bodies, packed: { ...loam, source: "packs/loam", forms: ["q8_0"] } };
    writeFileSync(join(folder, "organ_farm.json"), JSON.stringify({ ...file, bodies }));
    const { admission, stderr } = await admit("packed");
    write();
    expect(admission?.accepted, stderr).toBe(true);
    const [ours] = admission.forms;
    const [theirs] = (admissions.loam as unknown as { forms: (typeof ours)[] }).forms;
    expect(ours).toMatchObject({ form: "q8_0", sha256: theirs.sha256, tied: theirs.tied, rejected: null });
    // Without organs fewer prompts are measured, so the loss is near the other's and not the same.
    expect(ours.loss.kl_mean).toBeGreaterThan(0);
    expect(Math.abs(ours.loss.kl_mean - theirs.loss.kl_mean)).toBeLessThan(0.002);
    expect(admission.checks).toMatchObject([{ check: "verify", passed: true, found: expect.stringContaining("ok") }]);
  });

  test.each(Object.keys(bodies))("%s: each form is proven, measured and tied to its ledger", (body) => {
    const { forms, ledger_sha256, checks } = admissions[body] as unknown as {
      forms: {
        form: string;
        rejected: null;
        checks: { check: string; passed: boolean }[];
        loss: { kl_mean: number; same_top: number };
        load: { peak_bytes: number; threads: number };
      }[];
      ledger_sha256: string | null;
      checks: { check: string; found: string }[];
    };
    expect(ledger_sha256 === null).toBe(body === "tiny");
    expect(checks[0].check).toBe("verify");
    expect(forms.map(({ form }) => form)).toEqual(["q8_0", "q4_0"]);
    for (const { checks, load } of forms) {
      expect(checks.every(({ passed }) => passed)).toBe(true);
      expect(checks.map(({ check }) => check)).toContain("tokens");
      expect(load.peak_bytes).toBeGreaterThan(50e6);
    }
    // The finer form loses less.
    expect(forms[0].loss.kl_mean).toBeLessThan(forms[1].loss.kl_mean);
    expect(forms[0].loss.kl_mean).toBeLessThan(body === "tiny" ? 0.005 : 0.02);
  });

  test("temperature 0 gives the same text each time, and the one that the engine gave the anchors", async () => {
    const ask = () =>
      client.chat.completions.create({
        model: "story",
        temperature: 0,
        messages: [{ role: "user", content: "Once upon a time" }],
      });
    const [first, second] = [await ask(), await ask()];
    expect(first.choices[0].message.content).toMatch(/little (girl|boy)/);
    expect(second.choices[0].message.content).toBe(first.choices[0].message.content);
    expect(first.usage!.completion_tokens).toBe(24);
    expect(first).toMatchObject({
      physarium: { form: "q8_0", tier: "RAM", ledger_sha256: admissions.loam.ledger_sha256 },
    });
  });

  test("a seed decides, and streams give the same text", async () => {
    const ask = (seed: number) => ({
      model: "story",
      seed,
      temperature: 1,
      messages: [{ role: "user" as const, content: "The dog" }],
    });
    const whole = await Promise.all([1, 1, 2].map((seed) => client.chat.completions.create(ask(seed))));
    const texts = whole.map(({ choices }) => choices[0].message.content);
    expect(texts[0]).toBe(texts[1]);
    expect(texts[0]).not.toBe(texts[2]);
    let streamed = "";
    for await (const chunk of await client.chat.completions.create({ ...ask(1), stream: true }))
      streamed += chunk.choices[0]?.delta.content ?? "";
    expect(streamed).toBe(texts[0]);
  });

  test("a schema holds the answer while it is made", async () => {
    const schema = {
      type: "object",
      properties: { ok: { type: "boolean" } },
      required: ["ok"],
      additionalProperties: false,
    };
    const done = await client.chat.completions.create({
      model: "loam",
      messages: [{ role: "user", content: "Is it good?" }],
      response_format: { type: "json_schema", json_schema: { name: "x", schema } },
    });
    expect(JSON.parse(done.choices[0].message.content!)).toEqual({ ok: expect.any(Boolean) });
    expect(done).toMatchObject({ physarium: { constrained: true, verdict: { passed: true } } });
  });

  test("a prompt longer than the context is refused with both numbers", async () => {
    const long = client.completions.create({ model: "loam", prompt: "the ".repeat(200) });
    await expect(long).rejects.toMatchObject({
      status: 400,
      message: expect.stringMatching(/20\d tokens, the body's context 128/),
    });
  });

  test("readyz asks for a token", async () => {
    const ready = await (await fetch(`${farm.address}/readyz`)).json();
    expect(ready).toMatchObject({ ready: true });
  });

  test("nothing that breaks a rule gets in: the former form stays, both are in the history, revert goes back", async () => {
    write({ max_kl: 1e-9 });
    const { status, admission } = await admit("loam");
    expect(status).toBe(4);
    expect(admission.forms.every(({ rejected }: { rejected: string }) => rejected.startsWith("max_kl"))).toBe(true);
    const current = () =>
      JSON.parse(readFileSync(join(folder, "farm-state/bodies/loam/current.json"), "utf8")).generation;
    expect(current()).toBe(1);
    expect(existsSync(join(folder, "farm-state/bodies/loam/2/q8_0.gguf"))).toBe(false);
    write();
    expect((await admit("loam")).status).toBe(0);
    expect(current()).toBe(3);
    const reverted = await physarium(["farm", "revert", "loam", "--file", folder]);
    expect(reverted.stdout).toContain("generation 1 is served again instead of 3");
    expect(current()).toBe(1);
    const { stdout } = await physarium(["farm", "history", "loam", "--file", folder, "--json", "--limit", "100"]);
    const events = JSON.parse(stdout).history.map(
      ({ event, generation }: { event: string; generation?: number }) => `${event} ${generation}`,
    );
    for (const each of ["admitted 1", "rejected 2", "admitted 3", "reverted 1"]) expect(events).toContain(each);
    expect((await physarium(["farm", "revert", "loam", "--file", folder])).stderr).toContain("USAGE_NOTHING_TO_REVERT");
    // The server goes on, with what is current.
    const { choices } = await client.completions.create({ model: "loam", prompt: "Once", max_tokens: 3 });
    expect(choices[0].text).not.toBe("");
  });

  test("layers for a GPU that is not there are refused by name, and not loaded into RAM", async () => {
    const file = join(folder, "farm-state/bodies/loam/1/q8_0.gguf");
    const shape = { form: "q8_0", context: 128, sequences: 1, threads: 1, gpuLayers: 2 };
    const body = new ChildBody({ body: "loam", file, ...shape, engine: { kind: "node-llama-cpp" } });
    const loaded = body
      .load(async () => {})
      .then(
        () => "loaded on a GPU",
        (error: Error) => error.message,
      );
    // Where there is one, it is used.
    expect(await loaded).toMatch(/^2 layers of loam are to be on a GPU, and node-llama-cpp finds none|loaded on a GPU/);
    await body.stop();
  });

  test("ps, plan and doctor know what was measured", async () => {
    const ps = JSON.parse((await physarium(["farm", "ps", "--file", folder, "--json"])).stdout);
    expect(ps).toMatchObject({
      running: true,
      bodies: [{ name: "loam", generation: 1 }, ...(hasShared ? [{ name: "tiny" }] : [])],
    });
    const plan = JSON.parse((await physarium(["farm", "plan", "--file", folder, "--json"])).stdout);
    expect(plan.bodies[0].chosen.reason).toContain("least measured loss");
    expect(plan.bodies[0].forms[0].measured_bytes).toBeGreaterThan(50e6);
    const doctor = await physarium(["farm", "doctor", "--file", folder]);
    expect(doctor.stdout).not.toContain("BAD");
  });
});
