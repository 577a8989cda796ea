import { basename } from "node:path";
import type { Donor } from "../../checkpoint/donor.js";
import { PhysariumError } from "../../errors.js";
import type { PruneTask, StatisticsStrip } from "../../methods/method.js";
import type { Site } from "../../model/sites.js";
import type { CalibrationRecord } from "../../record/ledger.js";
import type { GramKind } from "./gram.js";
import { GramFile, modelFingerprint } from "./gram-file.js";

/** What a site's projections are told of their inputs; `tokens` where only an expert's own came, and how many. */
export interface SiteStatistics extends Pick<PruneTask, "inputs" | "tiled" | "energies"> {
  readonly tokens?: number;
}

/**
 * Whether a calibration is a file that `physarium calibrate` wrote, and no text: told by its name, before anything is
 * opened.
 */
export function isGramFile(path: string | undefined): path is string {
  return path?.endsWith(".safetensors") ?? false;
}

/**
 * Grams collected before, in place of a text: one stream, the donor's own inputs at every place, all tokens alike. So
 * nothing is run, the layers do not see what
 * became of those before them, and there is no second stream to draw outputs back to.
 */
export class StoredGrams {
  private constructor(
    private readonly path: string,
    private readonly file: GramFile,
    readonly record: CalibrationRecord,
    /** SHA-256 of the text they were collected from. */
    readonly textSha256: string,
  ) {}

  /**
   * Throws `DONOR_GRAM_MISMATCH` where the file was collected from another model, `DONOR_GRAM_FORMAT` where it is none
   * of Grams.
   */
  static async open(path: string, donor: Donor): Promise<StoredGrams> {
    const file = await GramFile.open(path, await modelFingerprint(donor));
    const { metadata } = file;
    const text = metadata.get("text_sha256") ?? "";
    const window = windowOf(metadata.get("protocol"));
    const record: CalibrationRecord = {
      text: metadata.get("text_name") ?? null,
      sha256: text === "" ? null : text,
      samples: Number(metadata.get("sequences")),
      window,
      tokens: Number(metadata.get("tokens")),
      seed: Number(metadata.get("seed")),
      ids_sha256: file.identity,
      grams: basename(path),
    };
    if ([record.samples, record.tokens, record.seed, window].every(Number.isSafeInteger)) {
      return new StoredGrams(path, file, record, text);
    }
    await file.close();
    throw new PhysariumError(
      "DONOR_GRAM_FORMAT",
      `${path}: its metadata does not say how many sequences, tokens and which seed it was collected with; collect ` +
        "again",
      { path },
    );
  }

  /** Whole Grams, or the diagonal alone. */
  get kind(): GramKind {
    return this.file.kind;
  }

  /** What the projections of a site see; whole, or strip by strip as `mode` says. */
  async statistics(layer: number, { name, expert }: Site, mode: "full" | "tile"): Promise<SiteStatistics> {
    const { file } = this;
    const seen = expert === undefined ? {} : { tokens: await file.expertTokens(layer, expert) };
    if (file.kind === "norms") return { energies: await file.read(layer, name), ...seen };
    const tokens = seen.tokens ?? this.record.tokens;
    if (mode === "full") return { inputs: { tokens, gram: await file.read(layer, name) }, ...seen };
    const cols = file.width(layer, name);
    return {
      tiled: {
        meanEnergy: await this.meanEnergy(layer, name, cols),
        // A Gram is symmetric: its columns are its rows.
        strip: async (colStart, colEnd) => transposed(await file.readRows(layer, name, colStart, colEnd), cols),
      },
      ...seen,
    };
  }

  /** Throws `USAGE_CALIBRATION`, closing the file, where it says too little for `who`. */
  async requireWhole(who: string): Promise<void> {
    if (this.kind === "gram") return;
    await this.close();
    throw new PhysariumError(
      "USAGE_CALIBRATION",
      `${this.path}: it holds norms only (--norms-only), which serve wanda and ria in compare; ${who} asks for ` +
        "whole Grams: collect again without --norms-only",
      { path: this.path },
    );
  }

  close(): Promise<void> {
    return this.file.close();
  }

  private async meanEnergy(layer: number, site: string, cols: number): Promise<number> {
    let sum = 0;
    for (let start = 0; start < cols; start += BAND_ROWS) {
      const end = Math.min(start + BAND_ROWS, cols);
      const band = await this.file.readRows(layer, site, start, end);
      for (let row = start; row < end; row++) sum += band[(row - start) * cols + row];
    }
    return sum / cols;
  }
}

const BAND_ROWS = 256;

function transposed(rows: Float32Array, cols: number): StatisticsStrip {
  const width = rows.length / cols;
  const gram = new Float32Array(rows.length);
  for (let row = 0; row < width; row++) {
    for (let col = 0; col < cols; col++) gram[col * width + row] = rows[row * cols + col];
  }
  return { gram };
}

function windowOf(protocol: string | undefined): number {
  try {
    return Number((JSON.parse(protocol ?? "") as { window?: unknown }).window);
  } catch {
    return Number.NaN;
  }
}
