import {
  chmodSync,
  cpSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { type VerifyOptions, verify } from "../../dist/audit/verify.js";
import { isPhysariumError } from "../../dist/errors.js";
import { readDocuments, readReport } from "../../dist/record/open-record.js";
import { addSections, renderDocuments, writeDocuments } from "../../dist/report/documents.js";
import { type Forgery, forge, type Line, readLines, writeRecord } from "../audit/forge.js";
import { gaussianTensor, toWeights, writeDonor } from "../donors.js";
import { physarium } from "../physarium.js";
import { operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";

/** What somebody may do who can write everything in an output: `verify` has the donor, and believes nothing else. */
const folder = temporaryFolder();
const donor = join(folder, "donor");
const clean = join(folder, "clean");
const output = join(folder, "tampered");

beforeAll(async () => {
  const tensors = [0, 1, 2, 3].map((layer) =>
    gaussianTensor(`model.layers.${layer}.mlp.up_proj.weight`, "BF16", [96, 80], layer + 1),
  );
  const norm = { name: "model.norm.weight", dtype: "F32", shape: [4], bytes: toWeights("F32", 4, () => 1) };
  writeDonor(donor, [tensors.slice(0, 2), [...tensors.slice(2), norm]], {
    "config.json": "{}",
    "tokenizer.json": "{}",
  });
  await operateOn(donor, clean, { blockSize: 16 }, { render: renderDocuments });
});

/** Start again from the clean output. */
function fresh(): void {
  rmSync(output, { recursive: true, force: true });
  cpSync(clean, output, { recursive: true });
}

async function verifyForged(forgery: Forgery, options: VerifyOptions = {}) {
  fresh();
  await forge(donor, output, forgery);
  return verify(output, { donorPath: donor, workers: 0, ...options });
}

const flipSigns: Forgery["weights"] = (_name, weights) => {
  for (let i = 0; i < weights.length; i++) if (weights[i] !== 0) weights[i] ^= 0x8000;
};

test("the forger's own tools change nothing by themselves", async () => {
  expect((await verifyForged({})).differences).toEqual([]);
});

describe("a ledger that claims healing", () => {
  test.each([false, true])(
    "cannot turn every sign, whether it records evidence or is of an old form (%s)",
    async (withoutEvidence) => {
      const { ok, differences, guarantee } = await verifyForged({
        claimsHealing: true,
        weights: flipSigns,
        withoutEvidence,
      });
      expect(ok).toBe(false);
      expect(guarantee).toBe("healed");
      expect(new Set(differences.map(({ check }) => check))).toEqual(new Set(["healing bounded"]));
      expect(differences.map(({ message }) => message).join()).toMatch(/cosine of -1 /);
    },
  );

  test("cannot shuffle rows, blow one up, or put noise in", async () => {
    const shuffle: Forgery["weights"] = (_name, weights) => void weights.set(weights.slice().reverse());
    const blowUp: Forgery["weights"] = (_name, weights) => {
      for (let i = 0; i < 80; i++) if (weights[i] !== 0) weights[i] += 5 << 7;
    };
    const noise: Forgery["weights"] = (_name, weights) => {
      for (let i = 0; i < weights.length; i++) if (weights[i] !== 0) weights[i] ^= Math.imul(i, 0x9e37) & 0x8000;
    };
    for (const weights of [shuffle, blowUp, noise]) {
      const { differences } = await verifyForged({ claimsHealing: true, weights });
      expect(differences.map(({ check }) => check)).toContain("healing bounded");
    }
  });

  test("cannot record other evidence than there is", async () => {
    const { differences } = await verifyForged({
      claimsHealing: true,
      lines: (lines) => {
        lines.find(({ evidence }) => evidence !== undefined).evidence.output_error *= 1.0001;
      },
    });
    expect(differences.map(({ message }) => message)).toEqual([expect.stringMatching(/the ledger says output_error/)]);
  });

  test("cannot move survivors and say that none was healed", async () => {
    const { differences } = await verifyForged({
      claimsHealing: true,
      weights: (_name, weights) => {
        for (let i = 0; i < weights.length; i++) if (weights[i] !== 0) weights[i] ^= 1;
      },
      lines: ([header]) => {
        header.fingerprint.activation.heal = false;
      },
    });
    expect(differences.map(({ message }) => message).join()).toMatch(/told not to heal/);
  });

  test("is refused where another flow is expected", async () => {
    const { differences } = await verifyForged({ claimsHealing: true }, { expect: "magnitude" });
    expect(differences[0]).toMatchObject({ check: "flow", message: expect.stringContaining("expected magnitude") });
    const { status, stdout } = await physarium(["verify", donor, output, "--expect", "balanced", "--no-record"]);
    expect([status, stdout]).toEqual([4, expect.stringContaining("expected balanced")]);
  });
});

describe("a mask that the flow did not choose", () => {
  test("one tile zeroed anywhere is found", async () => {
    for (let tile = 0; tile < 30; tile += 7) {
      const { differences, ok } = await verifyForged({
        weights: (name, weights) => {
          if (!name.includes("layers.2.")) return;
          const [top, left] = [16 * Math.floor(tile / 5), 16 * (tile % 5)];
          for (let row = top; row < top + 16; row++) weights.fill(0, row * 80 + left, row * 80 + left + 16);
        },
      });
      expect(ok).toBe(false);
      expect(differences[0]).toMatchObject({ check: "flow recounted", where: expect.stringContaining("layers.2.") });
      expect(differences[0].message).toContain(`row ${16 * Math.floor(tile / 5)}`);
    }
  });

  test("a killed weight more, or one fewer, is found", async () => {
    for (const killsMore of [true, false]) {
      const { ok } = await verifyForged({
        weights: (name, weights, original) => {
          if (!name.includes("layers.1.")) return;
          const at = weights.findIndex((pattern: number) => (pattern !== 0) === killsMore);
          weights[at] = killsMore ? 0 : original[at];
        },
      });
      expect(ok).toBe(false);
    }
  });

  test("the sample is another each time, and the same for a seed", async () => {
    fresh();
    const run = (seed?: number) =>
      verify(output, { donorPath: donor, workers: 0, parity: "sample", ...(seed === undefined ? {} : { seed }) });
    const [a, b] = [await run(), await run()];
    expect(a.parity.seed).not.toBe(b.parity.seed);
    expect(a.guarantee).toBe("sampled");
    expect((await run(7)).parity).toEqual((await run(7)).parity);
    const { stdout } = await physarium(["verify", donor, output, "--parity", "sample", "--seed", "7", "--no-record"]);
    expect(stdout).toContain("drawn from seed 7");
  });

  test("the whole is recounted unless less was asked for, on threads as in one", async () => {
    fresh();
    for (const workers of [0, 2]) {
      const { guarantee, parity } = await verify(output, { donorPath: donor, workers });
      expect(guarantee).toBe("exact");
      expect(parity.tiles_checked).toBe(parity.tiles_total);
    }
  });
});

describe("a hostile ledger", () => {
  const edit = (change: (lines: Line[]) => void) => async () => {
    fresh();
    const lines = readLines(output);
    change(lines);
    await writeRecord(output, lines);
  };

  test("its patterns are never run", async () => {
    await edit(([header]) => {
      header.fingerprint.include = "(.+)+$^";
      header.fingerprint.exclude = "(a|a)*$^";
    })();
    const started = performance.now();
    expect((await verify(output, { donorPath: donor, workers: 0 })).differences).toEqual([]);
    await readReport(output);
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  test("what it calls a target must be one that surgery could take; what it calls carried is the donor's", async () => {
    await edit((lines) => {
      lines[0].fingerprint.include = "x";
      lines.find(({ name }) => name === "model.norm.weight").role = "target";
      lines.find(({ name }) => name === "model.layers.0.mlp.up_proj.weight").role = "carried";
    })();
    const { differences } = await verify(output, { donorPath: donor, workers: 0 });
    expect(differences.map(({ check }) => check)).toEqual(
      expect.arrayContaining(["ledger complete", "carried-over tensors identical"]),
    );
  });

  test.each([
    ["n_iter", 1e9],
    ["n_iter", 1.5],
    ["block_size", 0],
    ["block_size", -256],
    ["block_size", 1e15],
    ["beta", 1],
    ["beta", null],
    ["survival", -1],
    ["survival", 1e300],
    ["flow", "__proto__"],
    ["include", 7],
    ["shards", {}],
    ["activation", []],
  ])("%s %s is refused by the rules of the command line, in one sentence", async (name, value) => {
    await edit(([header]) => {
      header.fingerprint[name] = value;
    })();
    const refusal = { code: "VERIFY_LEDGER", message: expect.stringContaining(`fingerprint.${name}`) };
    await expect(verify(output, { donorPath: donor, workers: 0 })).rejects.toMatchObject(refusal);
    await expect(readReport(output)).rejects.toMatchObject(refusal);
  });

  test("every command ends with 4 and one line", async () => {
    await edit(([header]) => {
      header.fingerprint.block_size = 0;
    })();
    for (const args of [
      ["verify", donor, output],
      ["verify", output],
      ["report", output],
    ]) {
      const { status, stderr } = await physarium(args);
      expect([args[0], status]).toEqual([args[0], 4]);
      expect(stderr).toMatch(/VERIFY_LEDGER/);
      expect(stderr).not.toMatch(/\n\s+at /);
    }
  });

  test("nests, is too long, is no file", async () => {
    fresh();
    const path = join(output, "physarium/ledger.jsonl");
    const text = readFileSync(path, "utf8");
    writeFileSync(path, text.replace('"kind":"header"', `"kind":"header","deep":${"[".repeat(1e5)}${"]".repeat(1e5)}`));
    await expect(verify(output)).rejects.toMatchObject({
      code: "VERIFY_LEDGER",
      message: expect.stringContaining("nests"),
    });
    truncateSync(path, 2 ** 30);
    await expect(verify(output)).rejects.toMatchObject({ code: "VERIFY_LEDGER" });
    rmSync(path);
    mkdirSync(path);
    await expect(verify(output)).rejects.toMatchObject({ code: "VERIFY_LEDGER" });
  });

  test("names files of this folder only", async () => {
    await edit((lines) => {
      lines.find(({ kind }) => kind === "shard").file = "../clean/model-00001-of-00002.safetensors";
    })();
    await expect(verify(output)).rejects.toMatchObject({
      code: "VERIFY_LEDGER",
      message: expect.stringContaining("plain file name"),
    });
  });

  test("control characters stay in it", async () => {
    const nasty = "\u001b]0;owned\u0007\u202e\n# evil";
    await edit((lines) => {
      lines[0].donor.path = nasty;
      for (const line of lines) {
        if (line.kind === "tensor" && line.role === "target") line.projection = nasty;
        if (line.kind === "finished") line.left_out = [{ file: nasty, reason: nasty }];
      }
      lines.splice(-1, 0, { kind: "warning", at: "2026-01-01T00:00:00.000Z", code: nasty, message: nasty });
    })();
    await writeDocuments(output, await readReport(output));
    for (const file of ["run.log", "REPORT.md", "report.html"]) {
      expect([
        file,
        readFileSync(join(output, "physarium", file), "utf8").match(/(?!\n)[\p{Cc}\u202a-\u202e]/u),
      ]).toEqual([file, null]);
    }
    const { stdout, stderr } = await physarium(["verify", donor, output]);
    expect(stdout + stderr).not.toMatch(/(?!\n)[\p{Cc}\u202e]/u);
    await edit((lines) => {
      lines[1].at = nasty;
    })();
    await expect(readReport(output)).rejects.toMatchObject({ code: "VERIFY_LEDGER" });
  });

  test("any value anywhere, in ledger, surgery.json or runs.jsonl: an answer or one of our errors", async () => {
    const hostile = fc.constantFrom<unknown>(
      null,
      true,
      -1,
      0,
      1e300,
      0.5,
      "",
      "x",
      "\u001b[2J",
      [],
      {},
      [null],
      { length: -1 },
      undefined,
    );
    const file = fc.constantFrom("ledger.jsonl", "surgery.json", "runs.jsonl");
    await fc.assert(
      fc.asyncProperty(file, fc.nat(), hostile, async (name, place, value) => {
        fresh();
        const path = join(output, "physarium", name);
        const lines = readFileSync(path, "utf8");
        const whole =
          name === "surgery.json"
            ? [JSON.parse(lines)]
            : lines
                .trimEnd()
                .split("\n")
                .map((line) => JSON.parse(line));
        replaceLeaf(whole, place, value);
        writeFileSync(
          path,
          name === "surgery.json"
            ? (JSON.stringify(whole[0]) ?? "")
            : whole.map((line) => `${JSON.stringify(line)}\n`).join(""),
        );
        for (const use of [
          () => verify(output, { donorPath: donor, workers: 0, parity: "none" }),
          () => verify(output, { workers: 0 }),
          async () => writeDocuments(output, { ...(await readDocuments(output)), ...(await readReport(output)) }),
          () => addSections(output, {}),
        ]) {
          try {
            await use();
          } catch (error) {
            if (!isPhysariumError(error, "VERIFY_")) throw error;
          }
        }
      }),
      { numRuns: 120 },
    );
  });
});

/** Put `value` in the place of one member of `root`, counted over all of them. */
function replaceLeaf(root: Line, place: number, value: unknown): void {
  const places: [Line, string][] = [];
  const walk = (node: Line) => {
    for (const key of Object.keys(node)) {
      places.push([node, key]);
      if (typeof node[key] === "object" && node[key] !== null) walk(node[key]);
    }
  };
  walk(root);
  const [node, key] = places[place % places.length];
  node[key] = value;
}

describe("what is added to the folder", () => {
  const add = async (change: () => void, packed = false) => {
    fresh();
    change();
    const { differences } = await verify(output, packed ? {} : { donorPath: donor, workers: 0 });
    return differences
      .filter(({ check }) => check === "nothing added")
      .map(({ where, message }) => `${where}: ${message}`);
  };

  test.each<[string, () => void, RegExp]>([
    ["a hidden file", () => writeFileSync(join(output, ".evil"), "x"), /^\.evil: .*neither the donor's nor ours/],
    [
      "a pickle by its name",
      () => writeFileSync(join(output, "physarium/evil.pkl"), "x"),
      /^physarium\/evil\.pkl: .*pickle.*runs code/,
    ],
    [
      "a pickle by its bytes",
      () => writeFileSync(join(output, "notes.txt"), Buffer.from([0x80, 4, 0x95, 0])),
      /^notes\.txt: .*pickle/,
    ],
    [
      "a script",
      () => writeFileSync(join(output, "modeling_evil.py"), "import os"),
      /^modeling_evil\.py: .*program or a script/,
    ],
    [
      "a program by its bytes",
      () => writeFileSync(join(output, "physarium/logo"), Buffer.from("\x7fELF", "latin1")),
      /physarium\/logo: .*ELF/,
    ],
    ["a file with an executable bit", () => chmodSync(written(join(output, "readme")), 0o755), /^readme: .*executable/],
    ["a hidden folder", () => mkdirSync(join(output, ".git")), /^\.git: a sub-folder/],
    ["a folder in the record", () => mkdirSync(join(output, "physarium/cache")), /^physarium\/cache: a sub-folder/],
    ["a link", () => symlinkSync("/etc/passwd", join(output, "vocab.txt")), /^vocab\.txt: it is a link/],
    [
      "a dangling link in the record",
      () => symlinkSync("nowhere", join(output, "physarium/x")),
      /^physarium\/x: it is a link/,
    ],
    [
      "a folder in a side file's place",
      () => {
        rmSync(join(output, "tokenizer.json"));
        mkdirSync(join(output, "tokenizer.json"));
      },
      /^tokenizer\.json: it is a folder/,
    ],
  ])("%s is named", async (_what, change, expected) => {
    const found = await add(change);
    expect(found).toEqual([expect.stringMatching(expected)]);
    // Its ledger alone tells as much.
    expect(await add(change, true)).toEqual([expect.stringMatching(expected)]);
  });

  test("a shard or side file that is a link elsewhere", async () => {
    for (const name of ["model-00001-of-00002.safetensors", "config.json", "physarium/ledger.jsonl"]) {
      const found = await add(() => {
        renameSync(join(output, name), join(folder, "elsewhere"));
        symlinkSync(join(folder, "elsewhere"), join(output, name));
      });
      expect(found).toEqual([expect.stringMatching(`^${name}: it is a link`)]);
    }
  });

  function written(path: string): string {
    writeFileSync(path, "text");
    return path;
  }
});
