import { refuseAdapter } from "../../checkpoint/adapter-names.js";
import { type Donor, type Model, openDonor } from "../../checkpoint/donor.js";
import { PhysariumError } from "../../errors.js";
import type { Architecture } from "../../model/architecture.js";
import { ModelConfig } from "../../model/config.js";
import { refuseImpossibleCounts } from "../../model/counts.js";
import { architectureOf, familyOf } from "../../model/families/registry.js";
import { layerBase } from "../../model/names.js";
import { projectionsOf } from "../../model/sites.js";
import { storedShape } from "../../model/steps.js";
import { layerTensors } from "../../model/tensors.js";
import { Weights } from "./weights.js";

/** A model looked at without an engine: everything that could be refused about it is refused here. */
export interface InspectedModel {
  readonly donor: Donor;
  readonly architecture: Architecture;
  readonly weights: Weights;
}

export async function inspectModel(model: Model): Promise<InspectedModel> {
  const donor = await openDonor(model);
  const config = await ModelConfig.read(donor.source);
  const tensors = donor.shards.flatMap((shard) => shard.tensors);
  // As the file says it, and in the common words: a family may ignore a field that another one reads.
  for (const each of [config, familyOf(config).config]) refuseImpossibleCounts(each, tensors);
  const architecture = architectureOf(config);
  const weights = new Weights(donor, architecture.names);
  checkTensors(architecture, weights);
  return { donor, architecture, weights };
}

/** Tensors of a layer that a forward pass may leave aside: tables that are computed anew. */
const IGNORED = /\.rotary_emb\.inv_freq$/;

/**
 * Every tensor of the decoder must be one the graph uses: an unknown one means another architecture than `config.json`
 * says, and the numbers would be wrong without a word.
 */
function checkTensors(architecture: Architecture, weights: Weights): void {
  const { vocabSize, hiddenSize, names } = architecture;
  weights.get(weights.embedding, [vocabSize, hiddenSize]);
  weights.get(weights.head(architecture), [vocabSize, hiddenSize]);
  if (architecture.norm.affine) weights.get(`${weights.named(names.finalNorm)}.weight`, [hiddenSize]);
  const { perLayerInputs } = architecture;
  if (perLayerInputs !== undefined && names.perLayer !== undefined) {
    const all = architecture.layerCount * perLayerInputs.width;
    weights.get(`${weights.named(names.perLayer.table)}.weight`, [perLayerInputs.vocabSize, all]);
    weights.get(`${weights.named(names.perLayer.projection)}.weight`, [all, hiddenSize]);
    weights.get(`${weights.named(names.perLayer.norm)}.weight`, [perLayerInputs.width]);
  }
  for (let layer = 0; layer < architecture.layerCount; layer++) {
    for (const projection of projectionsOf(architecture, weights.prefix, layer)) {
      weights.get(projection.tensor, storedShape(projection));
    }
    const known = layerTensors(architecture, layer);
    const base = layerBase(names, weights.prefix, layer);
    const foreign = weights
      .layerNames(layer)
      .find((name) => !known.has(name.slice(base.length)) && !IGNORED.test(name) && !names.ignored?.test(name));
    if (foreign !== undefined) {
      refuseAdapter(foreign);
      throw new PhysariumError(
        "DONOR_ARCHITECTURE",
        `tensor "${foreign}" has no place in the forward pass of model_type "${architecture.modelType}"; this is a ` +
          "variant nobody here implemented",
        { tensor: foreign },
      );
    }
  }
}
