import type { DecoderCoverage } from "../record/decoder-coverage.js";

/** What verify found; plain data, printed by `--json` as it is. */
export interface Verification {
  readonly ok: boolean;
  readonly output: string;
  /** Absent when the output was checked against its ledger alone. */
  readonly donor: string | undefined;
  readonly checks: readonly Check[];
  /** Every one, not the first. */
  readonly differences: readonly Difference[];
  readonly coverage: {
    readonly tiles: number;
    readonly tiles_total: number;
    readonly weights: number;
    readonly weights_target: number;
    readonly fraction: number;
  };
  /** Over all matrices of the decoder's layers. */
  readonly decoder: DecoderCoverage;
  /** What all of it together promises, as docs/verify.md says. */
  readonly guarantee: Guarantee;
  readonly parity: {
    readonly mode: "full" | "sample" | "reference" | "none";
    /** What the sample was drawn from; null where none was. */
    readonly seed: number | null;
    /** By the kernels or by the reference. */
    readonly tiles_checked: number;
    readonly tiles_total: number;
    readonly weights_checked: number;
    /** By the readable reference. */
    readonly reference_tiles: number;
    readonly tiles_too_large: number;
  };
  readonly bytes_read: number;
  readonly wall_seconds: number;
  /** Thread-seconds spent on digests. */
  readonly digest_seconds: number;
}

/**
 * `exact`: every byte is the donor's or what the flow gives from it. `sampled`: survivors are the donor's, the mask was
 * held to the flow on a sample. `survivors`: the same without a look at the mask. `healed`: mask, counts, digests,
 * output error. `digests`: the files are those that the ledger tells of, no donor was compared.
 */
export type Guarantee = "exact" | "sampled" | "survivors" | "healed" | "digests";

/** One check of `verify`: what was looked at, whether it holds, and in words what was found. */
export interface Check {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

/** Something in an output that is not as it should be. */
export interface Difference {
  /** The check it belongs to. */
  readonly check: string;
  /** File, or tensor in a file. */
  readonly where: string;
  readonly message: string;
}

/** Collects checks in the order they are named, and what each found. */
export class Findings {
  readonly differences: Difference[] = [];
  private readonly names: string[] = [];
  private readonly details = new Map<string, string>();

  /** Name a check and what it looked at; it holds as long as no difference is added to it. */
  check(name: string, detail: string): void {
    if (!this.details.has(name)) this.names.push(name);
    this.details.set(name, detail);
  }

  differ(check: string, where: string, message: string): void {
    if (!this.details.has(check)) this.check(check, "");
    this.differences.push({ check, where, message });
  }

  checks(): Check[] {
    const failed = new Map<string, number>();
    for (const { check } of this.differences) failed.set(check, (failed.get(check) ?? 0) + 1);
    return this.names.map((name) => {
      const count = failed.get(name) ?? 0;
      const detail = this.details.get(name) ?? "";
      return {
        name,
        ok: count === 0,
        detail:
          count === 0 ? detail : `${detail === "" ? "" : `${detail}; `}${count} difference${count === 1 ? "" : "s"}`,
      };
    });
  }
}
