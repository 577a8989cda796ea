import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { inspectModel } from "../../dist/probe/forward/inspect-model.js";
import { DEFAULT_SIZES, sizesThatFit } from "../../dist/probe/memory-plan.js";
import { eventsOf, physarium } from "../physarium.js";
import { aSecond } from "../soon.js";
import { temporaryFolder } from "../temporary.js";
import { hasEngine, LOAM } from "./engine-present.js";

const folder = temporaryFolder();
const text = join(folder, "text.txt");
writeFileSync(text, "Once upon a time there was a little tree that wanted to see the sea.\n".repeat(60));
const MIB = 2 ** 20;

test("runs get smaller where memory is short, and are refused where none fits", async () => {
  const model = await inspectModel(await openDonor(LOAM));
  expect(sizesThatFit([model], 512, 2 ** 40)).toEqual(DEFAULT_SIZES);
  const small = sizesThatFit([model], 128, 170 * MIB);
  expect(small.placesAtOnce).toBeLessThan(DEFAULT_SIZES.placesAtOnce);
  expect(small.batchTokens).toBeGreaterThanOrEqual(128);
  expect(sizesThatFit([model, model], 128, 180 * MIB).batchTokens).toBeLessThanOrEqual(small.batchTokens);
  expect(() => sizesThatFit([model], 512, 100 * MIB)).toThrow(
    expect.objectContaining({ code: "USAGE_MEMORY", message: expect.stringMatching(/100 MiB .*--window/) }),
  );
});

describe.skipIf(!hasEngine)("a machine or container with little memory", () => {
  const args = ["eval", LOAM, "--text", text, "--window", "64", "--limit", "4", "--threads", "1", "--json"];

  test("is given room: the same numbers, in a process that keeps no freed memory", async () => {
    const [usual, frugal] = await Promise.all([
      physarium(args),
      physarium(args, { env: { PHYSARIUM_MEMORY_LIMIT: `${400 * MIB}` } }),
    ]);
    expect(frugal.status, frugal.stderr).toBe(0);
    const numbers = (stdout: string) => JSON.parse(stdout).mean_nll;
    expect(Math.abs(numbers(frugal.stdout) - numbers(usual.stdout))).toBeLessThan(1e-6);
  });

  test("that cannot hold it is named in one sentence", async () => {
    const { status, stderr } = await physarium(args, { env: { PHYSARIUM_MEMORY_LIMIT: `${140 * MIB}` } });
    const [{ code, message }] = eventsOf(stderr).filter(({ event }) => event === "error");
    expect([status, code]).toEqual([2, "USAGE_MEMORY"]);
    expect(message).toMatch(/140 MiB are what this machine or container gives/);
  });

  test("that leaves v2 nothing beside Node and the engine is refused before anything is written", async () => {
    writeFileSync(text, "Once upon a time there was a little tree that wanted to see the sea.\n".repeat(100));
    const output = join(folder, "small");
    const v2 = ["surgery", LOAM, output, "--flow", "activation", "--target-sparsity", "0.5", "--calibration", text];
    const { status, stderr } = await physarium([...v2, "--samples", "2", "--window", "32"], {
      env: { PHYSARIUM_MEMORY_LIMIT: `${250 * MIB}` },
    });
    expect(stderr).toMatch(/this machine or container gives 250 MiB.* \[USAGE_MEMORY\]\n$/);
    expect([status, existsSync(output), existsSync(`${output}.partial`)]).toEqual([2, false, false]);
  });

  test.skipIf(!existsSync("/proc/self/task"))("Ctrl-C and kill -9 end both processes", async () => {
    for (const signal of ["SIGINT", "SIGKILL"] as const) {
      let child = 0;
      let sent = 0;
      const long = args.filter((each) => each !== "--json").map((each) => (each === "4" ? "4000" : each));
      writeFileSync(text, "Once upon a time there was a little tree that wanted to see the sea.\n".repeat(30_000));
      const { signal: ended } = await physarium(long, {
        env: { PHYSARIUM_MEMORY_LIMIT: `${400 * MIB}` },
        onStart: (parent) => {
          const look = setInterval(() => {
            const children = readFileSync(`/proc/${parent.pid}/task/${parent.pid}/children`, "utf8").trim();
            if (children === "") return;
            clearInterval(look);
            child = Number(children.split(" ")[0]);
            setTimeout(() => {
              sent = performance.now();
              parent.kill(signal);
            }, 300);
          }, 20);
        },
      });
      expect((performance.now() - sent) / 1000).toBeLessThan(aSecond());
      expect(ended).toBe(signal);
      await expect.poll(() => existsSync(`/proc/${child}`), { timeout: 2000 }).toBe(false);
    }
  });
});
