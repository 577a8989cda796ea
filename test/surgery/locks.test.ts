import { spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { isPhysariumError } from "../../dist/errors.js";
import { takeLock } from "../../dist/output/lock.js";
import { gaussianTensor, type TensorFixture, writeDonor } from "../donors.js";
import { eventsOf, physarium } from "../physarium.js";
import { temporaryFolder } from "../temporary.js";
import { filesOf } from "./operate.js";

const folder = temporaryFolder();
const donor = join(folder, "donor");
/** The slowest way through: every pass over one huge tile reads the matrix again. */
const SLOW = ["--flow", "balanced", "--block-size", "65536", "--workers", "1", "--json"];

/** A weight pattern repeated to any size. */
function large(name: string, rows: number, cols: number, seed: number): TensorFixture {
  const { bytes } = gaussianTensor(name, "BF16", [64, 1024], seed);
  return {
    name,
    dtype: "BF16",
    shape: [rows, cols],
    bytes: new Uint8Array(rows * cols * 2).map((_, i) => bytes[i % bytes.length]),
  };
}

beforeAll(() => {
  writeDonor(donor, [
    [gaussianTensor("model.layers.0.self_attn.q_proj.weight", "BF16", [64, 64], 1)],
    [large("model.layers.0.mlp.up_proj.weight", 4096, 4096, 2)],
    [large("model.layers.1.mlp.up_proj.weight", 4096, 4096, 3)],
  ]);
});

describe("two runs on one output", () => {
  test("the second is refused while the first works, whatever its flags; Ctrl-C ends the first within a second, resumable", async () => {
    const output = join(folder, "contested");
    const refused: Promise<void>[] = [];
    let pressedAt = 0;
    const first = await physarium(["surgery", donor, output, ...SLOW], {
      onStderr: (text, child) => {
        if (refused.length > 0 || !text.includes('"tensor"')) return;
        for (const flags of [[], ["--resume"], ["--overwrite"]]) {
          refused.push(
            physarium(["surgery", donor, output, ...SLOW, ...flags]).then(({ status, stderr }) => {
              expect(status, stderr).toBe(2);
              const [error] = eventsOf(stderr).filter(({ event }) => event === "error");
              expect(error.code).toBe("USAGE_LOCKED");
              expect(error.message).toContain(`process ${child.pid}`);
            }),
          );
        }
        Promise.allSettled(refused).then(() => {
          pressedAt = performance.now();
          child.kill("SIGINT");
        });
      },
    });
    const seconds = (performance.now() - pressedAt) / 1000;
    expect(refused.length).toBe(3);
    await Promise.all(refused);
    expect(first.status, first.stderr.slice(-500)).toBe(130);
    expect(first.stderr).toMatch(
      /stopped; \d of 3 tensors are done and kept in .*contested\.partial; go on with --resume/,
    );
    console.log(`Ctrl-C to the end of the process: ${seconds.toFixed(2)} s`);
    expect(seconds).toBeLessThan(1);
    expect(existsSync(output)).toBe(false);
    expect(existsSync(`${output}.partial.lock`)).toBe(false);

    const resumed = await physarium(["surgery", donor, output, ...SLOW, "--resume"]);
    expect(resumed.status, resumed.stderr.slice(-500)).toBe(0);
    const undisturbed = join(folder, "undisturbed");
    expect((await physarium(["surgery", donor, undisturbed, ...SLOW])).status).toBe(0);
    expect(filesOf(output)).toEqual(filesOf(undisturbed));
  });

  test("a closed pipe does not stop a run", async () => {
    const output = join(folder, "piped");
    const child = spawn("sh", [
      "-c",
      `"$0" "$@" 2>&1 | true`,
      process.execPath,
      "dist/cli/main.js",
      "surgery",
      donor,
      output,
      "--json",
    ]);
    await new Promise((done) => child.on("close", done));
    expect(existsSync(join(output, "physarium/surgery.json"))).toBe(true);
  });
});

describe("the lock", () => {
  let places = 0;
  const place = () => {
    const partial = join(folder, `lock-${places++}.partial`);
    return { partial, path: `${partial}.lock` };
  };
  const codeOf = (promise: Promise<unknown>) =>
    promise.then(
      () => "taken",
      (error: unknown) => (isPhysariumError(error) ? `${error.code} ${error.message}` : String(error)),
    );
  /** What a lock of this process says. */
  async function ownLock(): Promise<Record<string, unknown>> {
    const { partial, path } = place();
    await takeLock(partial);
    return JSON.parse(readFileSync(path, "utf8"));
  }

  test("is held by its owner and free once released", async () => {
    const { partial } = place();
    const lock = await takeLock(partial);
    expect(await codeOf(takeLock(partial))).toMatch(new RegExp(`^USAGE_LOCKED .*process ${process.pid} on`));
    await lock.release();
    expect(await codeOf(takeLock(partial))).toBe("taken");
  });

  test("of one run among many that are started at once", async () => {
    const { partial, path } = place();
    // A stale lock to fight over.
    writeFileSync(path, JSON.stringify({ ...(await ownLock()), pid: 2 ** 22 + 1 }));
    const outcomes = await Promise.all(Array.from({ length: 20 }, () => codeOf(takeLock(partial))));
    expect(outcomes.filter((outcome) => outcome === "taken").length).toBe(1);
    expect(outcomes.filter((outcome) => outcome.startsWith("USAGE_LOCKED")).length).toBe(19);
  });

  test.each([
    ["a process that is gone", (own: object) => JSON.stringify({ ...own, pid: 2 ** 22 + 1 })],
    ["a pid that is another process now", (own: object) => JSON.stringify({ ...own, started: "another-boot 1" })],
    ["nobody: the file is empty", () => ""],
    ["nobody: the file is cut off", (own: object) => JSON.stringify(own).slice(0, 20)],
    ["nobody: the file is garbage", () => "\u0000\u0001\u0002"],
    ["nobody: null", () => "null"],
    ["nobody: an empty object", () => "{}"],
    ["nobody: process 0", (own: object) => JSON.stringify({ ...own, pid: 0 })],
  ])("of %s is stale", async (_, content) => {
    const { partial, path } = place();
    writeFileSync(path, content(await ownLock()));
    expect(await codeOf(takeLock(partial))).toBe("taken");
    expect(JSON.parse(readFileSync(path, "utf8")).pid).toBe(process.pid);
  });

  test.skipIf(process.platform !== "linux")("of a zombie is stale", async () => {
    // The shell becomes a sleep that never asks for its child.
    const parent = spawn("sh", ["-c", "sleep 0.3 & echo $!; exec sleep 30"]);
    const pid = Number(await new Promise((got) => parent.stdout.once("data", got)));
    const start = readFileSync(`/proc/${pid}/stat`, "utf8").split(" ")[21];
    const own = await ownLock();
    const { partial, path } = place();
    writeFileSync(path, JSON.stringify({ ...own, pid, started: `${String(own.started).split(" ")[0]} ${start}` }));
    expect(await codeOf(takeLock(partial))).toMatch(/^USAGE_LOCKED/);
    for (let i = 0; i < 100 && !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8")); i++)
      await new Promise((wake) => setTimeout(wake, 50));
    expect(await codeOf(takeLock(partial))).toBe("taken");
    parent.kill();
  });

  test("of another host stands, and the message says what to do", async () => {
    const { partial, path } = place();
    writeFileSync(path, JSON.stringify({ ...(await ownLock()), pid: 2 ** 22 + 1, host: `not-${hostname()}` }));
    expect(await codeOf(takeLock(partial))).toContain(`if not-${hostname()} is gone for good, remove ${path}`);
  });
});
