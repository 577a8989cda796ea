/** What the summary tells of a GGUF export, and of its tensors. */
export interface GgufSummary {
  readonly path: string;
  readonly architecture: string;
  readonly type: string;
  readonly byteLength: number;
  readonly holdsExactZeros: boolean;
  readonly tensors: readonly {
    readonly name: string;
    readonly type: string;
    readonly isMatrix: boolean;
    readonly weights: number;
    readonly zerosBefore: number;
    readonly zerosAfter: number;
    readonly zerosLost: number;
    readonly squaredError: number;
    readonly squaredNorm: number;
    /** Why it is stored as another type than the one asked for. */
    readonly fallback?: string | undefined;
  }[];
  readonly leftOut: readonly { readonly name: string; readonly reason: string }[];
  readonly warnings: readonly string[];
}

/** An export's tensors of one kind added up. */
export interface ExportTotals {
  readonly weights: number;
  readonly zerosBefore: number;
  readonly zerosAfter: number;
  readonly zerosLost: number;
  /** √(Σ error² / Σ weight²) over the tensors whose numbers changed; 0 where none did. */
  readonly relativeError: number;
}

/** Totals over the matrices of an export, which are what surgery and quantisation change. */
export function totalMatrices(result: GgufSummary): ExportTotals {
  const totals = { weights: 0, zerosBefore: 0, zerosAfter: 0, zerosLost: 0 };
  let squaredError = 0;
  let squaredNorm = 0;
  for (const tensor of result.tensors) {
    if (!tensor.isMatrix) continue;
    totals.weights += tensor.weights;
    totals.zerosBefore += tensor.zerosBefore;
    totals.zerosAfter += tensor.zerosAfter;
    totals.zerosLost += tensor.zerosLost;
    squaredError += tensor.squaredError;
    squaredNorm += tensor.squaredNorm;
  }
  return { ...totals, relativeError: relativeError(squaredError, squaredNorm) };
}

export function relativeError(squaredError: number, squaredNorm: number): number {
  return squaredNorm === 0 ? 0 : Math.sqrt(squaredError / squaredNorm);
}

const percent = (part: number, whole: number): string => `${((100 * part) / (whole || 1)).toFixed(2)} %`;

/** What a GGUF export did, for a terminal: size, types, fallbacks, zeros before and after, warnings. */
export function renderGgufExport(result: GgufSummary): string {
  const totals = totalMatrices(result);
  const lines = [
    `${result.path}: ${result.architecture}, ${result.type}, ${result.tensors.length} tensors, ` +
      `${result.byteLength.toLocaleString("en-US")} bytes`,
  ];
  const byType = new Map<string, number>();
  for (const { type } of result.tensors) byType.set(type, (byType.get(type) ?? 0) + 1);
  lines.push(`types: ${[...byType].map(([type, count]) => `${count} ${type}`).join(", ")}`);
  const kept = totals.zerosBefore - totals.zerosLost;
  const ofThem =
    totals.zerosBefore === 0 ? "" : `; ${percent(kept, totals.zerosBefore)} of the donor's zeros are still zero`;
  const holds = result.holdsExactZeros
    ? "every type in it holds exact zeros"
    : "not every type in it holds exact zeros";
  lines.push(
    `zeros in matrices: ${percent(totals.zerosBefore, totals.weights)} before, ` +
      `${percent(totals.zerosAfter, totals.weights)} after${ofThem} (${holds})`,
  );
  if (totals.relativeError > 0)
    lines.push(`relative error of the matrices (rms): ${totals.relativeError.toExponential(3)}`);
  const fallbacks = result.tensors.filter((tensor) => tensor.fallback !== undefined);
  for (const { name, type, fallback } of fallbacks.slice(0, 10)) lines.push(`as ${type}: ${name}: ${fallback}`);
  if (fallbacks.length > 10) lines.push(`of other types than asked: ${fallbacks.length - 10} more; --json lists all`);
  for (const { name, reason } of result.leftOut) lines.push(`left out: ${name}: ${reason}`);
  for (const warning of result.warnings) lines.push(`warning: ${warning}`);
  return lines.join("\n");
}
