import type { Donor } from "../../checkpoint/donor.js";
import { layoutGguf } from "../../export/gguf/export.js";
import { type ExportRecipe, FILE_TYPE } from "../../export/gguf/tensor-types.js";

/**
 * A form is a GGUF type, or a mixture of them, as the command line spells it. This file alone knows what the exporter
 * calls it.
 */
export const EXPORT_FORMS: readonly string[] = Object.keys(FILE_TYPE).map((type) => type.toLowerCase());

export function typeOfForm(form: string): ExportRecipe {
  return form.toUpperCase() as ExportRecipe;
}

/** What the engine needs to know of a form to place it, in bytes. */
export interface FormLayout {
  readonly form: string;
  readonly fileBytes: number;
  /** Per decoder layer, first layer first. */
  readonly layerBytes: readonly number[];
  /** The embedding; it stays in RAM, where its rows are looked up. */
  readonly embeddingBytes: number;
  /** Last norm, output head and what else belongs to no layer; a tied head is the embedding's copy. */
  readonly outputBytes: number;
  readonly shape: BodyShape;
  readonly warnings: readonly string[];
}

export interface BodyShape {
  readonly layers: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly vocabSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headLength: number;
  readonly maxContext: number;
}

/** A form's tensors as the exporter would lay them out. Reads headers alone. */
export async function layoutOfForm(donor: Donor, form: string): Promise<FormLayout> {
  const { config, byteLength, tensors, warnings } = await layoutGguf(donor, typeOfForm(form));
  const layerBytes = new Array<number>(config.layerCount).fill(0);
  let embeddingBytes = 0;
  let outputBytes = 0;
  let hasHead = false;
  for (const tensor of tensors) {
    const layer = /^blk\.(\d+)\./.exec(tensor.name)?.[1];
    if (layer !== undefined) layerBytes[Number(layer)] += tensor.byteLength;
    else if (tensor.name === "token_embd.weight") embeddingBytes = tensor.byteLength;
    else outputBytes += tensor.byteLength;
    if (tensor.name === "output.weight") hasHead = true;
  }
  return {
    form,
    fileBytes: byteLength,
    layerBytes,
    embeddingBytes,
    // Tied: on a GPU the engine keeps a second copy of the embedding as the head.
    outputBytes: hasHead ? outputBytes : outputBytes + embeddingBytes,
    shape: {
      layers: config.layerCount,
      hiddenSize: config.hiddenSize,
      intermediateSize: config.intermediateSize,
      vocabSize: config.vocabSize,
      heads: config.headCount,
      kvHeads: config.kvHeadCount,
      headLength: config.headLength,
      maxContext: config.contextLength,
    },
    warnings,
  };
}
