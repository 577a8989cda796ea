import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { isPhysariumError } from "../../dist/errors.js";
import { faultyFiles } from "../faults/faulty-files.js";
import { filesOf, operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";
import { goodDonor } from "./hostile-donors.js";

const folder = temporaryFolder();
const donor = join(folder, "shelf/donor");
let before: Map<string, string>;

/** Names, contents and times. */
function state(path: string): Map<string, string> {
  return new Map(
    [...filesOf(path)].map(([name, digest]) => [
      name,
      `${digest} ${statSync(join(path, name), { bigint: true }).mtimeNs}`,
    ]),
  );
}

async function codeOf(output: string, from = donor, run = {}): Promise<string> {
  try {
    await operateOn(from, output, { blockSize: 16, workers: 0 }, run);
    return "done";
  } catch (error) {
    if (!isPhysariumError(error)) throw error;
    return `${error.code} ${error.message}`;
  }
}

beforeAll(() => {
  goodDonor(donor);
  before = state(donor);
});
beforeEach(() => () => {
  expect(state(donor)).toEqual(before);
});

const MOUNTED: string[] = [];
/** False where mounting is not allowed: the tests that need it are skipped. */
function mountBind(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  execFileSync("mount", ["--bind", from, to], { stdio: "ignore" });
  MOUNTED.push(to);
}
const canMount = (() => {
  const probe = join(folder, "probe");
  try {
    mountBind(folder, probe);
    return true;
  } catch {
    console.warn("mounting is not allowed here: the tests of bind mounts are skipped");
    return false;
  }
})();
afterAll(() => {
  for (const path of MOUNTED.reverse()) execFileSync("umount", [path]);
});

describe("an output that is the donor, inside it or around it is refused", () => {
  test.each([
    ["the same folder", () => donor],
    ["spelled with dots", () => `${donor}/../../shelf/./donor/`],
    ["inside", () => join(donor, "operated")],
    ["deep inside", () => join(donor, "a/b/c")],
    ["around", () => join(folder, "shelf")],
    ["a link to the donor", () => link("to-donor", donor)],
    ["inside, through a link", () => join(link("to-donor-2", donor), "operated")],
    ["a link around", () => link("to-shelf", join(folder, "shelf"))],
    ["the donor by its real path, given as a link", () => realpathSync(donor), () => link("donor-link", donor)],
  ])("%s", async (_, output, from = () => donor) => {
    for (const overwrite of [false, true])
      expect(await codeOf(output(), from(), { overwrite })).toMatch(/^USAGE_OUTPUT_OVERLAP /);
  });

  test.skipIf(!canMount)("by bind mounts", async () => {
    mountBind(donor, join(folder, "mounted-donor"));
    mountBind(join(folder, "shelf"), join(folder, "mounted-shelf"));
    mkdirSync(join(folder, "around"));
    mountBind(donor, join(folder, "around/inner"));
    for (const output of [
      "mounted-donor",
      "mounted-donor/operated",
      "mounted-shelf",
      "mounted-shelf/donor/x",
      "around",
    ])
      expect(await codeOf(join(folder, output)), output).toMatch(/^USAGE_OUTPUT_OVERLAP /);
    expect(await codeOf(join(folder, "shelf/donor/x"), join(folder, "mounted-donor"))).toMatch(
      /^USAGE_OUTPUT_OVERLAP /,
    );
  });

  function link(name: string, to: string): string {
    const path = join(folder, name);
    if (!existsSync(path)) symlinkSync(to, path);
    return path;
  }
});

describe("the names beside an output", () => {
  test.each([".partial", ".replaced"])(
    "a donor called <output>%s is never removed, whatever the flags",
    async (suffix) => {
      const output = join(folder, `beside${suffix}-test`);
      expect(await codeOf(output)).toBe("done");
      // A donor that is an output itself: its ledger makes it look like ours.
      const victim = `${output}${suffix}`;
      cpSync(output, victim, { recursive: true });
      const files = state(victim);
      for (const run of [{}, { resume: true }, { overwrite: true }, { resume: true, overwrite: true }])
        expect(await codeOf(output, victim, run)).toMatch(/^USAGE_OUTPUT_OVERLAP /);
      expect(state(victim)).toEqual(files);
    },
  );

  test("somebody's folder called <output>.replaced is never removed", async () => {
    const output = join(folder, "renewed");
    expect(await codeOf(output)).toBe("done");
    mkdirSync(`${output}.replaced`);
    writeFileSync(`${output}.replaced/thesis.txt`, "years of work");
    expect(await codeOf(output, donor, { overwrite: true })).toMatch(
      /^USAGE_OUTPUT_EXISTS .*renewed\.replaced: .*move it away/,
    );
    expect(readFileSync(`${output}.replaced/thesis.txt`, "utf8")).toBe("years of work");
    rmSync(`${output}.replaced`, { recursive: true });
    expect(await codeOf(output, donor, { overwrite: true })).toBe("done");
    expect(existsSync(`${output}.replaced`)).toBe(false);
  });

  test("an output that is a link is built where it points; a dangling one is refused at once", async () => {
    const real = join(folder, "real-place");
    mkdirSync(real);
    symlinkSync(real, join(folder, "link-out"));
    expect(await codeOf(join(folder, "link-out"))).toBe("done");
    expect(existsSync(join(real, "physarium/ledger.jsonl"))).toBe(true);
    symlinkSync(join(folder, "nowhere"), join(folder, "dangling-out"));
    expect(await codeOf(join(folder, "dangling-out"))).toMatch(/^USAGE_OUTPUT_EXISTS .*points to nothing/);
    symlinkSync(join(folder, "circle"), join(folder, "circle"));
    expect(await codeOf(join(folder, "circle"))).toMatch(/^USAGE_OUTPUT_EXISTS .*in a circle/);
    writeFileSync(join(folder, "a-file"), "");
    expect(await codeOf(join(folder, "a-file"))).toMatch(/^USAGE_OUTPUT_EXISTS .*there is a file/);
  });
});

describe("the donor", () => {
  test("is never opened for writing", async () => {
    const files = faultyFiles({});
    expect(await codeOf(join(folder, "watched"), donor, { files })).toBe("done");
    expect([...files.written].filter((path) => path.startsWith(donor))).toEqual([]);
    const changing = files.calls.filter(({ operation }) =>
      ["mkdir", "rename", "rm", "truncate", "write"].includes(operation),
    );
    expect(changing.filter(({ path }) => path.startsWith(donor))).toEqual([]);
    expect(changing.length).toBeGreaterThan(10);
  });

  test.each([
    ["a shard that grows", "model-00002-of-00002.safetensors", (path: string) => appendFileSync(path, "x")],
    ["a shard that is touched", "model-00001-of-00002.safetensors", (path: string) => utimesSync(path, 5, 5)],
    ["a shard that goes away", "model-00002-of-00002.safetensors", (path: string) => rmSync(path)],
    ["a side file that changes", "config.json", (path: string) => writeFileSync(path, "{ }")],
  ])("that changes during the run is an error that names the file: %s", async (name, file, change) => {
    const copy = join(folder, name.replaceAll(" ", "-"));
    cpSync(donor, copy, { recursive: true, preserveTimestamps: true });
    const output = `${copy}-output`;
    let changed = false;
    const onEvent = ({ event }: { event: string }) => {
      if (event !== "tensor" || changed) return;
      changed = true;
      change(join(copy, file));
    };
    const result = await codeOf(output, copy, { onEvent });
    expect(result).toMatch(/^(DONOR_CHANGED|IO_NOT_FOUND) /);
    expect(result).toContain(file);
    expect(existsSync(output)).toBe(false);
  });

  test("may be read-only: the output gets the umask's modes, not the donor's", async () => {
    const copy = join(folder, "read-only");
    cpSync(donor, copy, { recursive: true, preserveTimestamps: true });
    for (const name of readdirSync(copy)) chmodSync(join(copy, name), 0o444);
    chmodSync(copy, 0o555);
    const output = join(folder, "modes");
    const umask = process.umask(0o027);
    try {
      expect(await codeOf(output, copy)).toBe("done");
    } finally {
      process.umask(umask);
    }
    const mode = (path: string) => (statSync(path).mode & 0o777).toString(8);
    expect(mode(output)).toBe("750");
    for (const name of filesOf(output).keys()) expect(mode(join(output, name)), name).toBe("640");
    for (const name of readdirSync(join(output, "physarium")))
      expect(mode(join(output, "physarium", name)), name).toBe("640");
    chmodSync(copy, 0o755);
  });
});
