import type { Donor } from "../../checkpoint/donor.js";
import { PhysariumError } from "../../errors.js";
import type { Architecture } from "../../model/architecture.js";
import { sitesOf } from "../../model/sites.js";
import { HEAD } from "./collect.js";
import { GramFile, modelFingerprint } from "./gram-file.js";

/** A site, by its layer. */
export interface Place {
  readonly layer: number;
  readonly step: string;
}

/** By a tensor and the number of its matrix: where their inputs are. */
export function matrixPlaces(
  architecture: Architecture,
  prefix: string,
  heads: readonly string[],
): (tensor: string, matrix?: number) => Place | undefined {
  const places = new Map<string, Place>();
  for (let layer = 0; layer < architecture.layerCount; layer++) {
    for (const { name, projections } of sitesOf(architecture, prefix, layer)) {
      for (const { tensor, stack } of projections) places.set(keyOf(tensor, stack?.index ?? 0), { layer, step: name });
    }
  }
  for (const head of heads) places.set(keyOf(head, 0), { layer: architecture.layerCount, step: HEAD });
  return (tensor, matrix = 0) => places.get(keyOf(tensor, matrix));
}

/** What a Gram file tells of the inputs of a model's matrices, by the names of their tensors. */
export class TensorStatistics {
  private constructor(
    readonly file: GramFile,
    private readonly places: ReturnType<typeof matrixPlaces>,
  ) {}

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
    return new TensorStatistics(file, matrixPlaces(architecture, prefix, heads));
  }

  /**
   * E[x²] of each input channel of a matrix; undefined where nothing was collected, or no token came (an expert that
   * none chose). `matrix` counts in a stack.
   */
  async importance(tensor: string, matrix = 0): Promise<Float32Array | undefined> {
    const place = this.placeOf(tensor, matrix);
    if (place === undefined) return undefined;
    const read = await this.file.read(place.layer, place.step);
    const width = this.file.width(place.layer, place.step);
    const squares =
      this.file.kind === "norms" ? read : Float32Array.from({ length: width }, (_, at) => read[at * (width + 1)]);
    return squares.some((square) => square > 0) ? squares : undefined;
  }

  /** E[x xᵀ] of a matrix's inputs, (width, width). Only of matrices that `inputsOf` knows. */
  gram(tensor: string, matrix = 0): Promise<Float32Array> {
    const place = this.placeOf(tensor, matrix);
    if (place === undefined) throw new PhysariumError("INTERNAL", `${tensor}: no Gram was collected`);
    return this.file.read(place.layer, place.step);
  }

  /** The same for matrices with the same inputs; undefined where their Gram was not collected whole. */
  inputsOf(tensor: string, matrix = 0): string | undefined {
    const place = this.placeOf(tensor, matrix);
    return place === undefined || this.file.kind === "norms" ? undefined : `${place.layer} ${place.step}`;
  }

  close(): Promise<void> {
    return this.file.close();
  }

  private placeOf(tensor: string, matrix: number): Place | undefined {
    const place = this.places(tensor, matrix);
    return place !== undefined && this.file.has(place.layer, place.step) ? place : undefined;
  }
}

function keyOf(tensor: string, matrix: number): string {
  return `${matrix} ${tensor}`;
}
