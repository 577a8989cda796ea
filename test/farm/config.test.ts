import { cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseAnchors } from "../../dist/farm/config/anchors.js";
import { parseLocated } from "../../dist/farm/config/located-json.js";
import { fillTemplate, templateFaults } from "../../dist/farm/config/prompt-template.js";
import { parseDuration, parseSize } from "../../dist/farm/config/units.js";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";

function farmFolder(file?: unknown): string {
  const folder = temporaryFolder();
  cpSync(LOAM, join(folder, "loam"), { recursive: true });
  if (file !== undefined)
    writeFileSync(join(folder, "organ_farm.json"), typeof file === "string" ? file : JSON.stringify(file, null, 2));
  return folder;
}

async function problemsOf(folder: string, ...flags: string[]) {
  const { stdout, status } = await physarium(["farm", "check", "--file", folder, "--json", ...flags]);
  return {
    status,
    ...(JSON.parse(stdout) as { ok: boolean; problems: { line: number; message: string; file: string }[] }),
  };
}

test("the example of the issue, with the report's own field names, has nothing wrong with it", async () => {
  const folder = farmFolder({
    version: 1,
    tier_default: "VRAM",
    budget: { VRAM: "auto", RAM: "16GiB", SSD: "200GiB" },
    bodies: {
      physarium7b: {
        source: "./loam",
        forms: ["q8_0", "q6_k", "q4_k"],
        context: 128,
        sequences: 2,
        threads: "auto",
        max_kl: 0.05,
      },
    },
    organs: [
      {
        name: "json_repair",
        body: "physarium7b",
        tier: "RAM",
        verifier: "json_schema",
        schema: "repair.schema.json",
        json_out: true,
        max_tokens: 96,
        prompt_template: "json_repair.txt",
        use_chatml: true,
        preamble: null,
        pinned: false,
        priority: 1,
        ttl: "10m",
        retries: 1,
        anchors: "repair.jsonl",
      },
    ],
  });
  writeFileSync(join(folder, "repair.schema.json"), '{"type":"object"}');
  writeFileSync(join(folder, "json_repair.txt"), "Repair: {{input}}");
  writeFileSync(join(folder, "repair.jsonl"), '{"prompt":"{","must":"}"}\n');
  expect(await problemsOf(folder)).toMatchObject({ ok: true, problems: [], status: 0 });
});

test("everything wrong is said at once, each with its line", async () => {
  const text = `{
  "version": 2,
  "tier_default": "GPU",
  "budget": { "RAM": "8 gigs", "RAMM": "1GB" },
  "bodies": {
    "x": { "source": "loam", "forms": ["q8_0", "q9"], "contxt": 5, "sequences": 0 },
    "deep": { "source": "loam", "context": 4096 },
    "deep": { "source": "loam" },
    "bad name": { "source": "nowhere" }
  },
  "organs": [
    { "name": "a", "body": "dep", "verifier": "json_schema" },
    { "name": "a", "body": "x", "ttl": "10 min", "prompt_template": "none.txt", "verifier": "hard_verifier" },
    { "body": "x", "tier": "DISK", "priority": "high" },
    { "name": "b", "body": "x", "prompt_template": "template.txt", "anchors": "anchors.jsonl" }
  ]
}`;
  const folder = farmFolder(text);
  writeFileSync(join(folder, "template.txt"), "line one\nsay {{inpt}}\n");
  writeFileSync(
    join(folder, "anchors.jsonl"),
    '{"prompt":"a","must":"b"}\n{"prompt":"a"}\n{"prompt":"a","must":"("}\n',
  );
  const { status, problems } = await problemsOf(folder);
  expect(status).toBe(2);
  const said = problems.map(({ line, message }) => `${line}: ${message}`);
  for (const expected of [
    "2: version must be 1, found 2",
    '3: tier_default must be one of "VRAM", "RAM", "SSD"; found "GPU"',
    '4: RAM must be "auto", a number of bytes, or a size as "16GiB", found "8 gigs"',
    '4: "RAMM" is no word of organ_farm.json here; did you mean "RAM"?',
    '6: "contxt" is no word of organ_farm.json here; did you mean "context"?',
    "6: sequences must be >= 1, found 0",
    '8: the key "deep" stands twice',
    "9: there is no folder nowhere",
    '12: there is no body "dep"; did you mean "deep"?',
    '12: json_schema needs "schema"',
    '13: the organ "a" stands twice (organs/0)',
    "13: there is no file none.txt",
    '13: hard_verifier needs "command"',
    '14: "name" is missing',
    '14: priority must be integer, found "high"',
  ]) {
    expect(said).toContain(expected);
  }
  expect(said.some((each) => each.startsWith('6: "q9" is no GGUF type'))).toBe(true);
  expect(problems.filter(({ file }) => file.endsWith("template.txt")).map(({ line }) => line)).toEqual([1, 2]);
  expect(problems.filter(({ file }) => file.endsWith("anchors.jsonl")).map(({ line }) => line)).toEqual([2, 3]);
  // As lines for people, too.
  const plain = await physarium(["farm", "check", "--file", folder]);
  expect(plain.stdout.split("\n").filter((line) => line !== "")).toHaveLength(problems.length);
  expect(plain.stderr).toContain("[USAGE_FARM]");
});

test("a context longer than the model's positions is said with both numbers", async () => {
  const folder = farmFolder({ version: 1, bodies: { a: { source: "loam", context: 4096 } }, organs: [] });
  const { problems } = await problemsOf(folder);
  expect(problems.map(({ message }) => message)).toEqual([
    "context is 4096, the model has 128 positions (max_position_embeddings)",
  ]);
});

test("gpu_layers that cannot be are said with their line: a tier without a GPU, more than the model has, another's server", async () => {
  const file = (gpu_layers: number, tier: string, engine?: object) => ({
    version: 1,
    ...(engine === undefined ? {} : { engine }),
    bodies: { a: { source: "loam", gpu_layers } },
    organs: [{ name: "o", body: "a", tier }],
  });
  const found = async (...given: Parameters<typeof file>) => {
    const { problems } = await problemsOf(farmFolder(file(...given)));
    return problems.map(({ line, message }) => `${line} ${message}`);
  };
  expect(await found(2, "RAM")).toEqual([
    "6 gpu_layers is 2, but the body is wanted in RAM; give an organ of it the tier VRAM, or say 0",
  ]);
  expect(await found(6, "VRAM")).toEqual([
    '6 gpu_layers is 6, the model has 4 layers and a head: 5 at most, or "auto"',
  ]);
  expect(await found(5, "VRAM")).toEqual([]);
  expect(await found(0, "RAM")).toEqual([]);
  const elsewhere = { kind: "llama-server", address: "http://127.0.0.1:9" };
  expect((await found(1, "VRAM", elsewhere)).join()).toContain("the server runs elsewhere and was told its own");
});

test("a server's key stands in no file: its variable is named, and a key among the arguments is a problem", async () => {
  const wrongWith = async (engine: object) => {
    const found = await problemsOf(farmFolder({ version: 1, engine, bodies: { b: { source: "loam" } }, organs: [] }));
    return found.problems.map(({ message }) => message);
  };
  const server = { kind: "llama-server", path: "llama-server" };
  expect(await wrongWith({ ...server, api_key_env: "LLAMA_KEY" })).toEqual([]);
  const said = [
    await wrongWith({ ...server, args: ["--api-key", "hunter2"] }),
    await wrongWith({ ...server, args: ["--api-key=hunter2"] }),
    await wrongWith({ ...server, api_key_env: "hunter 2" }),
    await wrongWith({ ...server, api_key: "hunter2" }),
    await wrongWith({ kind: "node-llama-cpp", api_key_env: "LLAMA_KEY" }),
  ];
  expect(said.map((problems) => problems.length)).toEqual([1, 1, 1, 1, 1]);
  expect(said[0][0]).toMatch(/a key does not belong in the file.*api_key_env/);
  expect(said[3][0]).toMatch(/did you mean "api_key_env"/);
  expect(said[4][0]).toMatch(/only a llama-server demands a key/);
  for (const [line] of [said[0], said[1], said[3]]) expect(line).not.toContain("hunter2");
});

test("paths stay inside the file's folder, by spelling and by link, unless the command allows more", async () => {
  const outside = temporaryFolder();
  cpSync(LOAM, join(outside, "loam"), { recursive: true });
  const folder = farmFolder({
    version: 1,
    bodies: { a: { source: join(outside, "loam") }, b: { source: "../x" }, c: { source: "link" } },
    organs: [{ name: "o", body: "a", prompt_template: "/etc/passwd" }],
  });
  symlinkSync(join(outside, "loam"), join(folder, "link"));
  const { problems } = await problemsOf(folder);
  expect(
    problems.map(
      ({ message }) => message.replace(/^.*?(is absolute|leads out of the file's folder)/, "$1").split(";")[0],
    ),
  ).toEqual([
    "is absolute",
    "leads out of the file's folder",
    `leads out of the file's folder by a symbolic link (to ${join(outside, "loam")})`,
    "is absolute",
  ]);
  const allowed = await problemsOf(folder, "--allow-absolute-paths");
  // What is left is what is not there, or no template.
  expect(allowed.problems.map(({ message }) => message)).toEqual([
    "there is no folder ../x",
    "{{input}} does not stand in it, so what is asked would be lost",
  ]);
});

test("init, add and remove keep the file whole and right", async () => {
  const folder = farmFolder();
  const run = (...args: string[]) => physarium(["farm", ...args]);
  expect((await run("init", folder, "--ram", "2GiB")).status).toBe(0);
  expect(await run("init", folder)).toMatchObject({
    status: 2,
    stderr: expect.stringContaining("USAGE_OUTPUT_EXISTS"),
  });
  const loam = join(folder, "loam");
  const added = await run(
    "add",
    "story",
    "--body",
    "loam",
    "--source",
    loam,
    "--forms",
    "q8_0,q4_0",
    "--pinned",
    "--file",
    folder,
  );
  expect(added.stderr).toBe("");
  const file = join(folder, "organ_farm.json");
  expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({
    version: 1,
    tier_default: "VRAM",
    budget: { VRAM: "auto", RAM: "2GiB", SSD: "auto" },
    bodies: { loam: { source: "loam", forms: ["q8_0", "q4_0"] } },
    organs: [{ name: "story", body: "loam", pinned: true }],
  });
  const before = readFileSync(file, "utf8");
  expect((await run("add", "other", "--body", "laom", "--file", folder)).stderr).toContain('did you mean "loam"?');
  expect((await run("add", "other", "--body", "loam", "--verifier", "json_schema", "--file", folder)).status).toBe(2);
  expect((await run("remove", "loam", "--file", folder)).stderr).toContain("used by story");
  expect(readFileSync(file, "utf8")).toBe(before);
  expect((await run("remove", "story", "--file", folder)).status).toBe(0);
  expect((await run("remove", "loam", "--file", folder)).status).toBe(0);
  expect(JSON.parse(readFileSync(file, "utf8"))).toMatchObject({ bodies: {}, organs: [] });
});

test("names that every object has are names like others; a number of threads that is none is said by its flag", async () => {
  const organs = [{ name: "constructor", body: "a" }];
  const folder = farmFolder({ version: 1, bodies: { a: { source: "loam" } }, organs });
  expect(await problemsOf(folder)).toMatchObject({ ok: true, problems: [] });
  const { stdout } = await physarium(["farm", "check", "--file", folder]);
  expect(stdout).toContain("nothing is wrong (1 body, 1 organ)");
  const gone = await physarium(["farm", "remove", "toString", "--file", folder]);
  expect(gone.stderr).toContain('there is no organ and no body "toString"');
  const threads = await physarium(["farm", "add", "--body", "a", "--threads", "abc", "--file", folder]);
  expect(threads.stderr).toContain("Expected a number");
});

test("the schema is published with the package", () => {
  const manifest = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  expect(manifest.files).toContain("schemas");
  expect(manifest.exports["./organ_farm.schema.json"]).toBe("./schemas/organ_farm.schema.json");
});

test("located JSON gives what JSON.parse gives, and finds every value's line", () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const text = JSON.stringify(value, null, 1);
      const located = parseLocated(text);
      expect(located.faults).toEqual([]);
      // −0 becomes 0 in the text already.
      expect(JSON.stringify(located.value)).toBe(JSON.stringify(JSON.parse(text)));
    }),
  );
  const { placeOf, faults } = parseLocated('{\n "a": [\n  1,\n  {"b/c": 2}\n ]\n}');
  expect(faults).toEqual([]);
  expect(placeOf("/a/1/b~1c")).toEqual({ line: 4, column: 4 });
  expect(placeOf("/a/0/none")).toEqual({ line: 3, column: 3 });
});

test("text that is no JSON: one fault, with its line, whatever is broken", () => {
  const good = '{"version": 1, "bodies": {"a": {"source": "x\\n"}}, "organs": [true, null, -1.5e3]}';
  fc.assert(
    fc.property(fc.integer({ min: 0, max: good.length - 1 }), fc.string({ maxLength: 3 }), (at, put) => {
      const text = good.slice(0, at) + put + good.slice(at + 1);
      let isJson = true;
      try {
        JSON.parse(text);
      } catch {
        isJson = false;
      }
      const syntax = parseLocated(text).faults.filter(({ message }) => !message.includes("stands twice"));
      expect(syntax.length).toBe(isJson ? 0 : 1);
    }),
  );
});

test("sizes and times", () => {
  expect([parseSize("16GiB"), parseSize("8 GB"), parseSize("1.5KiB"), parseSize("12B"), parseSize(7)]).toEqual([
    16 * 2 ** 30,
    8e9,
    1536,
    12,
    7,
  ]);
  expect([parseSize("8 gigs"), parseSize("-1B"), parseSize("GiB")]).toEqual([undefined, undefined, undefined]);
  expect([parseDuration("500ms"), parseDuration("10m"), parseDuration("1.5h"), parseDuration("10 m")]).toEqual([
    500,
    600_000,
    5_400_000,
    undefined,
  ]);
});

test("a template is no program: values are put in once, and names it does not know are said", () => {
  expect(templateFaults("a {{ input }} {{organ}}")).toEqual([]);
  expect(templateFaults("{{input}}\n{{readFile('/etc/passwd')}}")).toMatchObject([{ line: 2 }]);
  const values = { input: "{{schema}} $& $1", preamble: "", schema: "S", organ: "o", body: "b" };
  expect(fillTemplate("<{{input}}|{{ schema }}>", values)).toBe("<{{schema}} $& $1|S>");
});

test("anchors: what an answer must be", () => {
  const { anchors, faults } = parseAnchors('{"prompt":"a","must":"^b"}\n\n{"prompt":"c","must":{"contain":"(d"}}\n');
  expect(faults).toEqual([]);
  expect(anchors.map(({ must, line }) => [must, line])).toEqual([
    [{ match: "^b" }, 1],
    [{ contain: "(d" }, 3],
  ]);
});
