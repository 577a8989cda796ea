import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { isPhysariumError, type PhysariumError } from "../../dist/errors.js";
import { operate } from "../../dist/surgery/operation.js";
import { checkOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
import { gaussianTensor, randomNumbers, writeDonor } from "../donors.js";
import { filesOf } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";
import { type Call, errno, type FaultyFiles, faultyFiles } from "./faulty-files.js";

/** Every fault at every call by hand with PHYSARIUM_FAULTS=all; else each where it is at home. */
const ALL = process.env.PHYSARIUM_FAULTS === "all";

const folder = temporaryFolder();
const donor = join(folder, "donor");
let expected: Map<string, string>;
let calls: Call[];
let outputs = 0;

beforeAll(async () => {
  writeDonor(donor, [
    [
      gaussianTensor("model.layers.0.self_attn.q_proj.weight", "BF16", [40, 24], 1),
      gaussianTensor("model.norm.weight", "F32", [24], 2),
    ],
    [gaussianTensor("model.layers.1.self_attn.q_proj.weight", "F16", [24, 24], 3)],
  ]);
  const files = faultyFiles({});
  const output = join(folder, "undisturbed");
  await run(output, files);
  expected = filesOf(output);
  calls = files.calls;
  for (const path of files.written) expect(path.startsWith(donor), path).toBe(false);
});

async function run(output: string, files: FaultyFiles, resume = false) {
  const plan = planSurgery(await openDonor(donor, files), checkOptions({ blockSize: 16, workers: 0 }));
  return operate(plan, {
    outputPath: output,
    resume,
    files,
    render: () => ({ "REPORT.md": "what the report says" }),
  });
}

/**
 * One run with faults, then one without: either the output is whole, or the error is ours and names the file, nothing
 * stands under the final name, and --resume ends with the undisturbed bytes.
 */
async function survive(files: FaultyFiles, check: (error: PhysariumError) => void, where: string): Promise<boolean> {
  const output = join(folder, `output-${outputs++}`);
  let failed = false;
  try {
    await run(output, files);
    expect(filesOf(output), where).toEqual(expected);
  } catch (error) {
    failed = true;
    if (!isPhysariumError(error)) throw new Error(`${where}: a raw error`, { cause: error });
    check(error);
  }
  // A fault in the last steps, after the rename, may leave a whole output.
  if (existsSync(output)) expect(filesOf(output), where).toEqual(expected);
  // Refused before anything was made: nothing to resume.
  if (failed && !existsSync(output) && !existsSync(`${output}.partial`)) return true;
  await run(output, faultyFiles({}), true);
  expect(filesOf(output), where).toEqual(expected);
  expect(existsSync(`${output}.partial`), where).toBe(false);
  expect(
    readdirSync(join(output, "physarium")).filter((name) => /lock|tmp|replaces/.test(name)),
    where,
  ).toEqual([]);
  rmSync(output, { recursive: true });
  return failed;
}

const WRITES = new Set(["write", "mkdir", "truncate", "rename"]);
const OPENS = new Set(["open", "mkdir", "readdir"]);

describe("a fault at every call", () => {
  test.each([
    ["EIO", "IO_FAILED", () => true],
    ["ENOSPC", "IO_DISK_FULL", ({ operation }: Call) => WRITES.has(operation)],
    ["EACCES", "IO_PERMISSION", ({ operation }: Call) => OPENS.has(operation)],
  ] as const)(
    "%s: whole output, or %s that names file and offset; resumes to the same bytes",
    async (fault, code, isAtHome) => {
      let runs = 0;
      let failures = 0;
      for (let n = 1; n <= calls.length; n++) {
        if (!ALL && !isAtHome(calls[n - 1])) continue;
        let hit: Call | undefined;
        const files = faultyFiles({
          before: (call, k) => {
            if (k !== n) return;
            hit = call;
            throw errno(fault);
          },
        });
        runs++;
        const check = (error: PhysariumError) => {
          const where = `call ${n} ${JSON.stringify(hit)}: ${error.code} ${error.message}`;
          expect(error.code, where).toBe(code);
          expect(error.message, where).toContain(hit!.path);
          if (hit!.byteOffset !== undefined) expect(error.message, where).toContain(`byte ${hit!.byteOffset}:`);
          // Before there is anything to go on from, nothing speaks of --resume.
          const isKept = /\.partial\/(?!physarium$)/.test(hit!.path);
          if (fault === "ENOSPC") expect(error.message, where).toMatch(isKept ? /--resume/ : /run again/);
        };
        if (await survive(files, check, `${fault} at call ${n} ${JSON.stringify(calls[n - 1])}`)) failures++;
      }
      console.log(`${fault}: ${runs} runs, ${failures} refused with ${code}, ${runs - failures} whole all the same`);
      expect(failures).toBeGreaterThan(runs / 2);
    },
    600_000,
  );

  test("a read that ends early and a write that is not taken are errors that name file and byte", async () => {
    let runs = 0;
    for (let n = 1; n <= calls.length; n++) {
      const { operation, path } = calls[n - 1];
      if ((operation !== "read" && operation !== "write") || path.startsWith("/proc/")) continue;
      let hit: Call | undefined;
      const files = faultyFiles({
        limit: (call, k, byteLength) => {
          // The order of calls under way together is not fixed: the first from the n-th on.
          if (k < n || hit !== undefined || call.path.startsWith("/proc/")) return byteLength;
          hit = call;
          return 0;
        },
      });
      runs++;
      const check = (error: PhysariumError) => {
        expect(error.code).toBe(hit!.operation === "read" ? "IO_SHORT_READ" : "IO_SHORT_WRITE");
        expect(error.message).toContain(hit!.path);
        expect(error.message).toContain(`byte ${hit!.byteOffset}`);
      };
      const failed = await survive(files, check, `nothing moved at call ${n} ${JSON.stringify(calls[n - 1])}`);
      if (hit !== undefined) expect(failed, JSON.stringify(hit)).toBe(true);
    }
    console.log(`nothing moved: ${runs} runs`);
  }, 600_000);

  test("a disk that stays full: every write from the n-th on fails; missing bytes are said", async () => {
    for (let n = 1; n <= calls.length; n += ALL ? 1 : 8) {
      const files = faultyFiles({
        before: ({ operation }, k) => {
          if (k >= n && (operation === "write" || operation === "truncate" || operation === "mkdir"))
            throw errno("ENOSPC");
        },
      });
      const check = (error: PhysariumError) => {
        expect(error.code).toBe("IO_DISK_FULL");
        if (files.calls.some(({ path }) => path.endsWith("runs.jsonl")))
          expect(error.message).toMatch(/about \d+ more bytes are needed/);
      };
      await survive(files, check, `full from call ${n} ${JSON.stringify(calls[n - 1])}`);
    }
  }, 600_000);
});

describe("short reads and writes", () => {
  test("one byte at a time gives the same output", async () => {
    const output = join(folder, "byte-by-byte");
    const files = faultyFiles({ limit: (_call, _n, byteLength) => Math.min(1, byteLength) });
    await run(output, files);
    expect(filesOf(output)).toEqual(expected);
    expect(files.calls.length).toBeGreaterThan(10_000);
  });

  test("any lengths give the same output, and verify finds nothing", async () => {
    for (let seed = 1; seed <= 10; seed++) {
      const random = randomNumbers(seed);
      const output = join(folder, `short-${seed}`);
      const files = () => faultyFiles({ limit: (_call, _n, byteLength) => Math.ceil(byteLength * random()) });
      await run(output, files());
      expect(filesOf(output), `seed ${seed}`).toEqual(expected);
      const result = await verify(output, { donorPath: donor, workers: 0, files: files() });
      expect(result.differences).toEqual([]);
    }
  });
});

test("verify: a fault at every call is an error of ours or a difference, never a pass over bytes it did not see", async () => {
  const output = join(folder, "to-verify");
  await run(output, faultyFiles({}));
  const counting = faultyFiles({});
  const whole = await verify(output, { donorPath: donor, workers: 0, parity: "full", files: counting });
  expect(whole.ok).toBe(true);
  let refused = 0;
  let differing = 0;
  let passed = 0;
  for (let n = 1; n <= counting.calls.length; n++) {
    let hit: Call | undefined;
    const files = faultyFiles({
      before: (call, k) => {
        if (k !== n) return;
        hit = call;
        throw errno("EIO");
      },
    });
    try {
      const result = await verify(output, { donorPath: donor, workers: 0, parity: "full", files });
      if (result.ok) {
        passed++;
        expect(hit!.operation, JSON.stringify(hit)).toBe("close");
        expect(result.bytes_read).toBe(whole.bytes_read);
      } else differing++;
    } catch (error) {
      if (!isPhysariumError(error)) throw new Error(`call ${n} ${JSON.stringify(hit)}: a raw error`, { cause: error });
      expect(error.code).toBe("IO_FAILED");
      expect(error.message).toContain(hit!.path);
      refused++;
    }
  }
  console.log(`verify: ${refused} refused, ${differing} differing, ${passed} passed with only a close failing`);
  expect(refused + differing).toBeGreaterThan(20);
  const before = readFileSync(join(output, "physarium/ledger.jsonl"));
  expect(before.byteLength).toBeGreaterThan(0);
});
