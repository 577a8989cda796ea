import { type Donor, type Model, openDonor } from "../../checkpoint/donor.js";
import { PhysariumError } from "../../errors.js";
import type { Architecture } from "../../model/architecture.js";
import { ModelConfig } from "../../model/config.js";
import { refuseImpossibleCounts } from "../../model/counts.js";
import { architectureOf } from "../../model/families/registry.js";
import { projectionsOf } from "../../model/steps.js";
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
  refuseImpossibleCounts(
    config,
    donor.shards.flatMap(({ tensors }) => tensors),
  );
  const architecture = architectureOf(config);
  const weights = new Weights(donor);
  checkTensors(architecture, weights);
  return { donor, architecture, weights };
}

/** Tensors of a layer that a forward pass may leave aside: tables that are computed anew. */
const IGNORED = /\.rotary_emb\.inv_freq$/;

/**
 * Every tensor of the decoder must be one the graph uses: an unknown one means another architecture than `config.json` says, and the numbers
 * would be wrong without a word.
 */
function checkTensors(architecture: Architecture, weights: Weights): void {
  const { vocabSize, hiddenSize } = architecture;
  weights.get(weights.embedding, [vocabSize, hiddenSize]);
  weights.get(weights.head(architecture), [vocabSize, hiddenSize]);
  weights.get(`${weights.prefix}norm.weight`, [hiddenSize]);
  for (let layer = 0; layer < architecture.layerCount; layer++) {
    const known = new Set<string>();
    for (const { projection, tensor, rows, cols } of projectionsOf(architecture, weights.prefix, layer)) {
      weights.get(tensor, [rows, cols]);
      known.add(`${projection}.weight`).add(`${projection}.bias`);
    }
    for (const norm of ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"]) {
      known.add(`${norm}.weight`);
    }
    if (architecture.sandwichNorms) {
      known.add("pre_feedforward_layernorm.weight").add("post_feedforward_layernorm.weight");
    }
    const base = `${weights.prefix}layers.${layer}.`;
    const foreign = weights
      .layerNames(layer)
      .find((name) => !known.has(name.slice(base.length)) && !IGNORED.test(name));
    if (foreign !== undefined) {
      throw new PhysariumError(
        "DONOR_ARCHITECTURE",
        `tensor "${foreign}" has no place in the forward pass of model_type "${architecture.modelType}"; this is a variant nobody here implemented`,
        { tensor: foreign },
      );
    }
  }
}
