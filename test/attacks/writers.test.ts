import { spawn, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { OutputFile } from "../../dist/output/output-file.js";
import { MAIN, physarium } from "../physarium.js";
import { hasEngine } from "../probe/engine-present.js";
import { filesOf } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const at = (name: string) => join(folder, name);
const donor = at("shelf/loam");
const text = at("text.txt");
let before: Map<string, string>;

beforeAll(() => {
  cpSync("examples/donors/loam", donor, { recursive: true });
  mkdirSync(join(donor, "physarium"));
  symlinkSync(donor, at("link"));
  symlinkSync(join(donor, "model-00001-of-00004.safetensors"), at("link.gguf"));
  writeFileSync(text, readFileSync("examples/texts/loam-stories.txt").subarray(0, 4000));
  before = filesOf(donor);
});
beforeEach(() => () => {
  expect(filesOf(donor)).toEqual(before);
  expect(readdirSync(join(donor, "physarium"))).toEqual([]);
});

/** The code of the refusal, as the command line says it. */
async function codeOf(...args: string[]): Promise<string> {
  const { status, stderr } = await physarium(args);
  return `${status} ${/\[([A-Z_]+)\]\s*$/.exec(stderr)?.[1] ?? stderr}`;
}

describe("no command writes where it reads: one code", () => {
  test.each([
    ["export into the donor's record", ["export", donor, join(donor, "physarium/x.gguf")]],
    ["export through a link", ["export", donor, at("link/x.gguf")]],
    ["export over a shard, by a link", ["export", donor, at("link.gguf"), "--overwrite"]],
    ["export of a folder through a link", ["export", donor, at("link/sparse"), "--format", "compressed-tensors"]],
    ["pack through a link", ["pack", donor, at("link/packed")]],
    ["synth around its donor", ["synth", donor, at("shelf"), "--overwrite"]],
    ["surgery through a link", ["surgery", donor, at("link/operated")]],
    ["compare into the donor", ["compare", donor, "--text", text, "--out", at("link/record")]],
  ])("%s", async (_, args) => {
    expect(await codeOf(...args)).toBe("2 USAGE_OUTPUT_OVERLAP");
  });

  test.each([
    ["a shard", join(donor, "model-00001-of-00004.safetensors")],
    ["the configuration", join(donor, "config.json")],
    ["its own text", text],
    ["a new file in the donor", join(donor, "grams.safetensors")],
  ])("calibrate --out over %s", async (_, out) => {
    const options = ["--text", text, "--samples", "1", "--window", "16", "--norms-only"];
    const result = await codeOf("calibrate", donor, ...options, "--out", out);
    if (/ENGINE/.test(result)) return;
    expect(result).toBe("2 USAGE_OUTPUT_OVERLAP");
  });
});

describe("an unfinished file", () => {
  const options = { inputs: [], mayReplace: async () => true as const };

  test("is not written through a link that was laid there", async () => {
    writeFileSync(at("victim"), "years of work");
    symlinkSync(at("victim"), at("trap.bin.partial"));
    await expect(OutputFile.create(at("trap.bin"), options)).rejects.toMatchObject({ code: "USAGE_OUTPUT_EXISTS" });
    expect(readFileSync(at("victim"), "utf8")).toBe("years of work");
  });

  test("belongs to one run; the second is refused", async () => {
    const first = await OutputFile.create(at("one.bin"), options);
    await expect(OutputFile.create(at("one.bin"), options)).rejects.toMatchObject({ code: "USAGE_LOCKED" });
    await first.discard();
    expect(readdirSync(folder).filter((name) => name.includes("one.bin"))).toEqual([]);
  });
});

describe("Ctrl-C at the first weights that are written", () => {
  /** Gets the signal there, and time to hear it. */
  const interrupted = `import fs from "node:fs/promises"; import { syncBuiltinESMExports } from "node:module";
    import { isMainThread } from "node:worker_threads";
    const { open } = fs;
    let sent = false;
    if (isMainThread) fs.open = async (...args) => { const file = await open(...args); const { write } = file;
      if (String(args[0]).includes(".partial") && /safetensors|gguf/.test(String(args[0])) && args[1] !== "r")
        file.write = async (...bytes) => { if (!sent) process.kill(process.pid, "SIGINT"); sent = true;
          await new Promise((wake) => setTimeout(wake, 100)); file.write = write; return write.apply(file, bytes); };
      return file; };
    syncBuiltinESMExports();`;
  const preload = ["--import", `data:text/javascript,${encodeURIComponent(interrupted)}`];

  test.each([
    ["export", "stopped.gguf", [donor], []],
    ["export", "sparse", [donor], ["--format", "compressed-tensors"]],
    ["import", "imported", [at("whole.gguf")], []],
    ["synth", "random", [donor], []],
    ["unpack", "unpacked", [at("stopped-pack")], ["--workers", "0"]],
  ])("%s to %s says what is left", async (command, name, input, flags) => {
    if (command === "import") await physarium(["export", donor, ...input, "--quiet"]);
    if (command === "unpack") await physarium(["pack", donor, ...input, "--quiet"]);
    const place = mkdtempSync(at("place-"));
    const args = [...preload, MAIN, command, ...input, join(place, name), ...flags];
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
    expect(status, stderr).toBe(130);
    if (command === "unpack") {
      expect(stderr).toMatch(
        /stopped; what is done is kept in .*unpacked\.partial; go on with --resume \[STOPPED\]\n$/,
      );
      expect(readdirSync(place).sort()).toEqual(["unpacked.partial", "unpacked.partial.jsonl"]);
    } else {
      expect(stderr).toMatch(/stopped; nothing of it was kept \[STOPPED\]\n$/);
      expect(readdirSync(place)).toEqual([]);
    }
  });
});

test("what a killed run left in the temporary folder goes with the next run; what a living one uses stays", async () => {
  const temporary = mkdtempSync(at("tmp-"));
  const opens = `import { openTemporaryFolder } from ${JSON.stringify(pathToFileURL("dist/output/temporary-folder.js"))};
    console.log((await openTemporaryFolder("grams")).path);
    setInterval(() => {}, 1000);`;
  const start = async () => {
    const child = spawn(process.execPath, ["--input-type=module", "--eval", opens], {
      env: { ...process.env, TMPDIR: temporary },
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = new Promise((resolve) => child.on("close", resolve));
    const path: string = await new Promise((resolve) => child.stdout.once("data", (line) => resolve(`${line}`.trim())));
    writeFileSync(join(path, "grams.safetensors.partial"), "half");
    const kill = async () => {
      child.kill("SIGKILL");
      await ended;
    };
    return { path, kill };
  };
  mkdirSync(join(temporary, "physarium-grams-somebody's"));
  const [killed, living] = [await start(), await start()];
  await killed.kill();
  const next = await start();
  const left = readdirSync(temporary).sort();
  await Promise.all([living.kill(), next.kill()]);
  expect(left).toEqual([...[living, next].map(({ path }) => basename(path)), "physarium-grams-somebody's"].sort());
});

test.skipIf(!hasEngine)("a second comparison on one --out is refused; the first goes on", async () => {
  const out = at("compared");
  const args = [
    "compare",
    donor,
    "--text",
    text,
    "--out",
    out,
    "--methods",
    "magnitude,wanda",
    "--sparsity",
    "0.5,0.6",
  ];
  const child = spawn(process.execPath, [MAIN, ...args, "--window", "16"], { stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    stderr += piece;
  });
  const ended = new Promise((resolve) => child.on("close", resolve));
  await expect.poll(() => existsSync(join(out, "compare.json.partial.lock")), { timeout: 30_000 }).toBe(true);
  child.kill("SIGSTOP");
  const second = await codeOf(...args, "--window", "16");
  child.kill("SIGCONT");
  expect(second).toBe("2 USAGE_LOCKED");
  expect(await ended, stderr).toBe(0);
  expect(readdirSync(out).sort()).toEqual(["compare.csv", "compare.json", "compare.md", "compare.svg"]);
});

describe("pack and unpack", () => {
  test("--resume on a finished output exits 0 in the words of surgery; another donor's is refused", async () => {
    expect((await physarium(["pack", donor, at("packed"), "--quiet"])).status).toBe(0);
    const again = await physarium(["pack", donor, at("packed"), "--resume"]);
    expect(again.status, again.stderr).toBe(0);
    expect(again.stdout).toContain("the operation is finished already; nothing was done");
    expect((await physarium(["unpack", at("packed"), at("back"), "--quiet"])).status).toBe(0);
    const back = await physarium(["unpack", at("packed"), at("back"), "--resume"]);
    expect(back.status, back.stderr).toBe(0);
    expect(back.stdout).toContain("the operation is finished already; nothing was done");
    writeFileSync(join(at("back"), "config.json"), "{}");
    expect(await codeOf("unpack", at("packed"), at("back"), "--resume")).toBe("2 USAGE_OUTPUT_EXISTS");
  });
});

test.skipIf(!existsSync("/dev/full"))("a result that cannot be written is no success", () => {
  const { status } = spawnSync("sh", ["-c", `"$0" "$@" > /dev/full`, process.execPath, MAIN, "plan", donor]);
  expect(status).toBe(5);
});

const namespaces = spawnSync("unshare", ["--pid", "--fork", "--mount-proc", "true"]).status === 0;
if (!namespaces) console.warn("pid namespaces are not allowed here: the tests of containers are skipped");

describe.skipIf(!namespaces)("in a fresh pid namespace, where pids repeat", () => {
  /** Run the command as a container would; with `preload`, loaded before it. */
  const contained = (args: readonly string[], preload?: string) =>
    spawnSync(
      "unshare",
      [
        ...["--pid", "--fork", "--kill-child", "--mount-proc", process.execPath],
        ...(preload === undefined ? [] : ["--import", `data:text/javascript,${encodeURIComponent(preload)}`]),
        ...[MAIN, ...args],
      ],
      { encoding: "utf8" },
    );
  /**
   * Exits at the n-th flush, without a word or a handler: what stands then is what a kill leaves. The first process of
   * a namespace cannot be killed from within.
   */
  const dies = `import fs from "node:fs/promises"; import { syncBuiltinESMExports } from "node:module";
    import { isMainThread } from "node:worker_threads";
    const { open } = fs;
    if (isMainThread) fs.open = async (...args) => { const file = await open(...args);
      if (String(args[0]).includes(".partial") && /safetensors|gguf/.test(String(args[0])) && args[1] !== "r")
        file.write = () => process.reallyExit(9);
      return file; };
    syncBuiltinESMExports();`;

  test.each([
    ["surgery", [donor], "--overwrite"],
    ["pack", [donor], "--resume"],
    ["synth", [donor], undefined],
    ["export", [donor], undefined],
  ])("a killed %s does not block the next", (command, input, flag) => {
    const place = mkdtempSync(at("place-"));
    const output = join(place, command === "export" ? "out.gguf" : "out");
    const args = [command, ...input, output, "--quiet"];
    const workers = command === "surgery" || command === "pack" ? ["--workers", "0"] : [];
    const killed = contained([...args, ...workers], dies);
    expect(killed.status, killed.stderr).toBe(9);
    expect(readdirSync(place).some((name) => name.endsWith(".partial.lock"))).toBe(true);
    const next = contained([...args, ...(flag === undefined ? [] : [flag])]);
    expect(next.status, next.stderr).toBe(0);
    expect(readdirSync(place)).toEqual([command === "export" ? "out.gguf" : "out"]);
    rmSync(place, { recursive: true });
  });
});
