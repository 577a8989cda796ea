import { existsSync, rmSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { readDocuments } from "../../dist/record/open-record.js";
import type { SurgeryOptions } from "../../dist/surgery/options.js";
import { filesOf, operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";
import { inParts, recordsOf, writeMixedDonor } from "./parts.js";

const folder = temporaryFolder();
const donor = join(folder, "donor");
let outputs = 0;
const fresh = () => join(folder, `output-${outputs++}`);

beforeAll(() => {
  writeMixedDonor(donor);
});

const CASES: [string, SurgeryOptions, number[]][] = [
  ["magnitude", {}, [1, 2, 5, 9, 40]],
  ["magnitude, an odd tile and a pattern", { blockSize: 40, exclude: "down_proj" }, [9]],
  ["magnitude, a target sparsity", { blockSize: 64, targetSparsity: 0.4 }, [4, 11]],
  ["balanced", { flow: "balanced", blockSize: 64 }, [3, 12]],
  ["balanced, a target sparsity", { flow: "balanced", targetSparsity: 0.6 }, [9]],
];

describe("the bytes and records of one machine", () => {
  test.each(CASES)("%s", async (_, options, partCounts) => {
    const one = fresh();
    await operateOn(donor, one, { workers: 0, ...options });
    const counts = new Set<number>();
    for (const maxParts of partCounts) {
      const output = fresh();
      const { part_count, parts } = await inParts(donor, output, maxParts, options);
      counts.add(part_count);
      expect(part_count).toBeLessThanOrEqual(maxParts);
      if (maxParts >= 9) expect(parts.some(({ shards }) => shards.some(({ whole }) => !whole))).toBe(true);
      expect(filesOf(output)).toEqual(filesOf(one));
      expect(recordsOf(output).sort()).toEqual(recordsOf(one).sort());
      expect(existsSync(`${output}.parts`)).toBe(false);
      rmSync(output, { recursive: true });
    }
    expect(counts.size).toBe(partCounts.length);
  });

  test("records come in the order of the tensors, the report names hosts, verify holds", async () => {
    const output = fresh();
    const { part_count } = await inParts(donor, output, 9, { targetSparsity: 0.4 });
    const kinds = recordsOf(output).map((line) => JSON.parse(line));
    expect(kinds[0].kind).toBe("header");
    expect(kinds.at(-1).kind).toBe("finished");
    const tensors = kinds.filter(({ kind }) => kind === "tensor");
    const inOrder = [...tensors].sort((a, b) =>
      a.shard < b.shard ? -1 : a.shard > b.shard ? 1 : a.byte_offset - b.byte_offset,
    );
    expect(tensors).toEqual(inOrder);
    const { parts } = await readDocuments(output);
    expect(parts?.part_count).toBe(part_count);
    expect(new Set(parts?.parts.map(({ host }) => host))).toEqual(new Set([hostname()]));
    const { ok, differences } = await verify(output, { donorPath: donor, parity: "full" });
    expect(differences).toEqual([]);
    expect(ok).toBe(true);
  });
});
