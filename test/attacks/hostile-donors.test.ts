import { cpSync, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { isPhysariumError } from "../../dist/errors.js";
import { operate } from "../../dist/surgery/operation.js";
import { checkOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
import { faultyFiles } from "../faults/faulty-files.js";
import { physarium } from "../physarium.js";
import { temporaryFolder } from "../temporary.js";
import { ATTACKS, goodDonor } from "./hostile-donors.js";

const folder = temporaryFolder();
let donors = 0;

function bent(bend: (donor: string) => void): { donor: string; output: string } {
  const donor = join(folder, `donor-${donors}`);
  const output = join(folder, `output-${donors++}`);
  goodDonor(donor);
  bend(donor);
  return { donor, output };
}

/** Content and modification time of every regular file. */
function snapshot(donor: string): Map<string, string> {
  return new Map(
    readdirSync(donor, { withFileTypes: true })
      .filter((entry) => entry.isFile() && statSync(join(donor, entry.name)).size < 1e6)
      .map(({ name }) => {
        const path = join(donor, name);
        return [name, `${statSync(path, { bigint: true }).mtimeNs} ${readFileSync(path).toString("base64")}`];
      }),
  );
}

describe("hostile donors", () => {
  test.each(ATTACKS)("$trick: $code", async ({ code, bend, says }) => {
    const { donor, output } = bent(bend);
    const isFolder = existsSync(donor) && statSync(donor).isDirectory();
    const before = isFolder ? snapshot(donor) : undefined;
    const files = faultyFiles({});
    let refusal: unknown;
    try {
      const plan = planSurgery(await openDonor(donor, files), checkOptions({ blockSize: 16, workers: 0 }));
      await operate(plan, { outputPath: output, files });
    } catch (error) {
      refusal = error;
    }
    if (code === undefined) {
      expect(refusal).toBeUndefined();
      const result = await verify(output, { donorPath: donor, workers: 0, parity: "full" });
      expect(result.differences).toEqual([]);
    } else {
      expect(isPhysariumError(refusal) ? refusal.code : refusal).toBe(code);
      const { message } = refusal as Error;
      expect(message.length).toBeLessThan(5000);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: finding control characters is the point
      expect(message).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202e]/);
      if (says !== undefined) expect(message).toMatch(says);
      // Refused before the first write.
      expect(existsSync(output) || existsSync(`${output}.partial`)).toBe(false);
    }
    for (const path of files.written) expect(path.startsWith(`${donor}/`), path).toBe(false);
    if (before !== undefined) expect(snapshot(donor)).toEqual(before);
  });
});

describe("the terminal", () => {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: finding control characters is the point
  const CONTROLS = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/;
  const nasty = ATTACKS.filter(({ trick }) => /controls|unknown dtype/.test(trick));

  test.each(nasty)("gets no control characters: $trick", async ({ bend }) => {
    const { donor, output } = bent(bend);
    const runs = [
      ["plan", donor],
      ["plan", donor, "--json"],
      ["surgery", donor, output, "--block-size", "16"],
      ["surgery", donor, `${output}-json`, "--block-size", "16", "--json"],
    ];
    // What stands in the output prints no more: its documents are made of the same names.
    if (existsSync(join(donor, "model.safetensors.index.json")))
      runs.push(["verify", donor, output], ["verify", donor, output, "--json"], ["report", output, "--format", "md"]);
    for (const args of runs) {
      const { stdout, stderr } = await physarium(args);
      expect(stdout + stderr, args.join(" ")).not.toMatch(CONTROLS);
    }
    for (const name of ["REPORT.md", "report.html", "run.log"]) {
      const path = join(output, "physarium", name);
      if (existsSync(path)) expect(readFileSync(path, "utf8"), name).not.toMatch(CONTROLS);
    }
  });

  test("gets no control characters from paths and arguments either", async () => {
    const { donor } = bent(() => {});
    const path = join(folder, "\u001b[31m\u009bfolder");
    cpSync(donor, path, { recursive: true });
    for (const args of [
      ["surgery", path, `${path}-out`],
      ["surgery", path, `${path}-out`, "--resume"],
      ["surgery", path, `${path}-out`],
      ["verify", path, `${path}-out`],
      ["report", `${path}-out`],
      ["plan", "\u001b[31mnowhere"],
      ["plan", donor, "--\u001b[31m"],
      ["\u001b[31m"],
      ["plan", donor, "--include", "\u001b[31m("],
    ]) {
      const { stdout, stderr } = await physarium(args);
      expect(stdout + stderr, JSON.stringify(args)).not.toMatch(CONTROLS);
    }
  });
});
