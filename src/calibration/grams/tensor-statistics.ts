import type { Donor } from "../../checkpoint/donor.js";
import type { Architecture } from "../../model/architecture.js";
import { sitesOf } from "../../model/sites.js";
import { HEAD } from "./collect.js";
import { GramFile, modelFingerprint } from "./gram-file.js";

interface Place {
  readonly layer: number;
  readonly step: string;
}

/** What a Gram file tells of the inputs of a model's matrices, by the names of their tensors. */
export class TensorStatistics {
  private readonly places = new Map<string, Place>();

  private constructor(
    readonly file: GramFile,
    architecture: Architecture,
    prefix: string,
    heads: readonly string[],
  ) {
    for (let layer = 0; layer < architecture.layerCount; layer++) {
      for (const { name, projections } of sitesOf(architecture, prefix, layer)) {
        for (const { tensor, stack } of projections) {
          this.places.set(keyOf(tensor, stack?.index ?? 0), { layer, step: name });
        }
      }
    }
    for (const head of heads) this.places.set(keyOf(head, 0), { layer: architecture.layerCount, step: HEAD });
  }

  /**
   * heads  names of the output matrix, and of the embedding where it is tied to it
   * Throws `DONOR_GRAM_*` where the file was collected from another model or is none of Grams.
   */
  static async open(
    path: string,
    donor: Donor,
    architecture: Architecture,
    prefix: string,
    heads: readonly string[],
  ): Promise<TensorStatistics> {
    const file = await GramFile.open(path, await modelFingerprint(donor));
    return new TensorStatistics(file, architecture, prefix, heads);
  }

  /** Tokens that were run. */
  get tokens(): number {
    return Number(this.file.metadata.get("tokens"));
  }

  /** E[x²] of each input channel of a matrix; undefined where nothing was collected. `matrix` counts in a stack. */
  async importance(tensor: string, matrix = 0): Promise<Float32Array | undefined> {
    const place = this.placeOf(tensor, matrix);
    if (place === undefined) return undefined;
    const read = await this.file.read(place.layer, place.step);
    if (this.file.kind === "norms") return read;
    const width = this.file.width(place.layer, place.step);
    return Float32Array.from({ length: width }, (_, at) => read[at * (width + 1)]);
  }

  /** E[x xᵀ] of a matrix's inputs, (width, width); undefined where it was not collected whole. */
  async gram(tensor: string, matrix = 0): Promise<Float32Array | undefined> {
    const place = this.placeOf(tensor, matrix);
    return place === undefined || this.file.kind === "norms" ? undefined : this.file.read(place.layer, place.step);
  }

  /** What is the same for two matrices with the same inputs. */
  inputsOf(tensor: string, matrix = 0): string | undefined {
    const place = this.placeOf(tensor, matrix);
    return place === undefined ? undefined : `${place.layer} ${place.step}`;
  }

  close(): Promise<void> {
    return this.file.close();
  }

  private placeOf(tensor: string, matrix: number): Place | undefined {
    const place = this.places.get(keyOf(tensor, matrix));
    return place !== undefined && this.file.has(place.layer, place.step) ? place : undefined;
  }
}

function keyOf(tensor: string, matrix: number): string {
  return `${matrix} ${tensor}`;
}
