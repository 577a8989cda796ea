import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { magnitudeFormat, weightPatterns } from "../../dist/flow/magnitudes.js";
import { combineDigests, createDigester, digestSideFile } from "../../dist/record/digest.js";
import { compareRows, evidenceOf, probeSigns } from "../../dist/record/evidence.js";
import { countTiles, partitionOf, piecesOf } from "../../dist/record/pieces.js";
import { parseLedger } from "../../dist/record/read-ledger.js";
import { readRuns } from "../../dist/record/run-history.js";
import { summarise } from "../../dist/record/summarise.js";
import type { FloatDtype } from "../../dist/safetensors/dtypes.js";
import { decodeFloats } from "../../dist/safetensors/float-bits.js";

// biome-ignore lint/suspicious/noExplicitAny: what is forged keeps to no type
export type Line = any;

export interface Forgery {
  /** Change an output's weights, tensor by tensor: patterns of donor and output. */
  readonly weights?: (name: string, output: Uint16Array | Uint32Array, donor: Uint16Array | Uint32Array) => void;
  /** Change the ledger's lines at the end. */
  readonly lines?: (lines: Line[]) => void;
  /** Claim that the flow was v2. */
  readonly claimsHealing?: boolean;
  /** Leave the evidence out, as ledgers of before do. */
  readonly withoutEvidence?: boolean;
}

/**
 * An attacker who may write everything in the output: weights are changed, and every count, digest and number of ledger
 * and surgery.json is made to agree with them. Only the donor tells such an output from an honest one.
 */
export async function forge(donorPath: string, output: string, forgery: Forgery): Promise<void> {
  const donor = await openDonor(donorPath);
  const digester = await createDigester();
  const ledgerPath = join(output, "physarium/ledger.jsonl");
  const lines: Line[] = readFileSync(ledgerPath, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  const { fingerprint } = lines[0];
  if (forgery.claimsHealing) claimHealing(fingerprint);
  const killedOf = new Map<string, number>();
  for (const shard of donor.shards) {
    const before = aligned(readFileSync(join(donorPath, shard.file)));
    const after = aligned(readFileSync(join(output, shard.file)));
    for (const { name, dtype, shape, byteOffset, byteLength } of shard.tensors) {
      const record = lines.find((line) => line.kind === "tensor" && line.name === name);
      if (record.role !== "target") continue;
      const float = dtype as FloatDtype;
      const [matrixCount, rows, cols] = shape.length === 3 ? shape : [1, ...shape];
      const target = { dtype: float, matrixCount, rows, cols };
      const donorBytes = before.slice(byteOffset, byteOffset + byteLength);
      const bytes = after.slice(byteOffset, byteOffset + byteLength);
      const [was, is] = [weightPatterns(donorBytes, float), weightPatterns(bytes, float)];
      forgery.weights?.(name, is, was);
      after.set(bytes, byteOffset);
      const mask = magnitudeFormat(float).magnitudeMask;
      let [zeros, dead, killed, changed] = [0, 0, 0, 0];
      for (let i = 0; i < is.length; i++) {
        const wasZero = (was[i] & mask) === 0;
        if (wasZero) zeros++;
        if (is[i] === 0) dead++;
        if (is[i] === 0 && !wasZero) killed++;
        if (is[i] !== 0 && is[i] !== was[i]) changed++;
      }
      const pieces = [...piecesOf(byteLength, target, fingerprint.block_size)];
      const [donorValues, values] = [donorBytes, bytes].map((stored) => decodeFloats(stored, float, "copy"));
      const evidence = evidenceOf([compareRows(donorValues, values, probeSigns(name, cols))]);
      const partition = partitionOf(byteLength, target, fingerprint.block_size);
      Object.assign(record, {
        killed,
        already_zero: zeros,
        sparsity: dead / is.length,
        weights: is.length,
        tiles: countTiles(target, fingerprint.block_size),
        digest: combineDigests(
          digester,
          pieces.map((piece) => digester.digest(bytes.subarray(piece.byteOffset, piece.byteOffset + piece.byteLength))),
        ),
        digest_matrix_bytes: partition.matrixByteLength,
        digest_piece_bytes: partition.pieceByteLength,
        ...(fingerprint.flow === "activation"
          ? {
              survivors_changed: changed,
              revived: killed + zeros - dead,
              ...(forgery.withoutEvidence ? {} : { evidence }),
            }
          : {}),
      });
      killedOf.set(shard.file, (killedOf.get(shard.file) ?? 0) + killed);
    }
    writeFileSync(join(output, shard.file), after);
  }
  let cumulative = 0;
  for (const line of lines.filter(({ kind }) => kind === "shard").sort((a, b) => a.order - b.order)) {
    cumulative += killedOf.get(line.file) ?? 0;
    line.killed_cumulative = cumulative;
  }
  for (const line of lines)
    if (line.kind === "side_file") line.digest = await digestSideFile(join(output, line.file), digester);
  forgery.lines?.(lines);
  await writeRecord(output, lines);
}

/** Write these ledger lines, and the surgery.json that follows from them where they can be read. */
export async function writeRecord(output: string, lines: readonly Line[]): Promise<void> {
  const text = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  writeFileSync(join(output, "physarium/ledger.jsonl"), text);
  try {
    const ledger = parseLedger(new TextEncoder().encode(text), "forged");
    const report = summarise(ledger!, await readRuns(output), output);
    writeFileSync(join(output, "physarium/surgery.json"), JSON.stringify(report, null, 1));
  } catch {
    // What cannot be read is what the test is about.
  }
}

export function readLines(output: string): Line[] {
  return readFileSync(join(output, "physarium/ledger.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
}

function claimHealing(fingerprint: Line): void {
  Object.assign(fingerprint, {
    flow: "activation",
    flow_version: "v2",
    survival: null,
    activation: {
      target: { kind: "sparsity", sparsity: 0.25 },
      calibration: "self-written",
      samples: 128,
      window: null,
      protocol: null,
      seed: 0,
      heal: true,
      allocation: "uniform",
      gram: "full",
      memory_bytes: null,
    },
  });
}

/** A copy that starts at a multiple of 8 in its buffer. */
function aligned(bytes: Buffer): Uint8Array {
  return new Uint8Array(bytes);
}
