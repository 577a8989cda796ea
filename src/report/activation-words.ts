import type { DistilRecord } from "../record/distilling.js";
import type { MatchRecord } from "../record/matching.js";
import type { ActivationSection } from "../record/surgery-report.js";
import { expertBlocks } from "./experts-section.js";
import { count, counted, percent, significant } from "./number-words.js";
import { type Block, code, paragraph, say, type Text } from "./report-text.js";

type TensorStages = ActivationSection["tensors"][number];

/** What v2 did: its calibration, and what each of its stages left of the error, by projection. */
export function activationBlocks({ calibration, tensors, distil }: ActivationSection): Block[] {
  const keepsBits = tensors.some((tensor) => tensor.stages.some(({ stage }) => stage === "donor's bits"));
  const end = keepsBits
    ? "the mask is chosen as if the survivors healed by least squares, but they keep the donor's bits (--no-heal), " +
      "which costs more than healing them"
    : "the survivors are healed by least squares so that a layer's outputs stay the donor's";
  const blocks: Block[] = [
    paragraph(
      say`This flow consumes activations. Every weight is a tube fed by what the calibration text drives through it, and
        tubes are coupled by how their inputs are correlated; those that starve die, some sprout again where pressure
        builds up, and ${end}. ${
          calibration?.grams === undefined
            ? "Layers are operated in order, each on what the operated layers before it now compute."
            : "Every layer is operated on the inputs that the donor gives it, whatever became of the layers before."
        }`,
    ),
  ];
  if (calibration !== undefined) {
    const { text, samples, tokens, grams } = calibration;
    const source: Text = text === null ? say`text the donor wrote itself` : say`${code(text)}`;
    blocks.push(
      paragraph(say`It was calibrated on ${counted(samples, "sample")}, ${count(tokens)} tokens of ${source}.`),
      ...(grams === undefined
        ? []
        : [
            paragraph(
              say`They were run before, by calibrate: their Grams stand in ${code(grams)}. With one stream there is no
                drift to take back.`,
            ),
          ]),
    );
  }
  blocks.push(...matchBlocks(tensors), ...distilBlocks(distil));
  const inTiles = tensors.filter(({ gram }) => gram === "tiles").length;
  if (inTiles > 0) {
    blocks.push(
      paragraph(
        say`The Grams of ${counted(inTiles, "tensor")} of ${count(tensors.length)} were used in tiles of columns: tubes
          of different tiles are coupled only by what a finished tile leaves undone for those behind it.`,
      ),
    );
  }
  blocks.push(...expertBlocks({ tensors }));
  const { stages, projections } = meanErrors({ tensors });
  if (tensors.length === 0 || stages.length === 0) return blocks;
  blocks.push({
    kind: "picture",
    picture: "stages",
    title: "What each stage leaves of the error",
    caption: say`Relative error of each projection's outputs, averaged over its tensors, on a logarithmic scale:
      selecting closes tubes, sprouting exchanges some, healing moves the
      survivors${keepsBits ? ", and going back to the donor's bits undoes that" : ""}.`,
  });
  blocks.push({
    kind: "table",
    caption: "Relative error after each stage, and what became of the living",
    columns: [
      { name: "Projection" },
      ...stages.map((stage) => ({ name: stage[0].toUpperCase() + stage.slice(1), numeric: true })),
      { name: "Sprouted", numeric: true },
      { name: "Healed", numeric: true },
    ],
    rows: projections.map(({ projection, errors, group }) => [
      say`${code(projection)}`,
      ...errors.map((error): Text => [significant(error, 3)]),
      [percent(sum(group, (tensor) => tensor.exchanged_share * tensor.living) / sum(group, (tensor) => tensor.living))],
      [percent(sum(group, (tensor) => tensor.survivors_changed) / sum(group, (tensor) => tensor.living))],
    ]),
    note: say`Errors are those of a projection's outputs on the calibration text against what it was made to aim at,
      squared, tokens weighed as docs/flows.md says, relative to the energy of those outputs and averaged over its
      tensors. Sprouted and healed are shares of the living weights. Every tensor's own stand in surgery.json.`,
  });
  return blocks;
}

/** v3: what distilling the whole model gained. */
function distilBlocks(distil: DistilRecord | undefined): Block[] {
  if (distil === undefined) return [];
  const [before, after] = [distil.held_out_before, distil.held_out_after].map((loss): Text => [significant(loss, 4)]);
  const taught = distil.tokens === undefined ? "" : `${count(distil.tokens)} tokens of `;
  return [
    paragraph(
      say`Last the survivors of the whole model were trained: in ${counted(distil.kept ?? distil.steps, "step")} they
        moved, by gradient, towards the donor's next-token probabilities on ${taught}the calibration text. On what was
        held out of it the mean divergence from the donor fell from ${before} to ${after} nats a token. Such an output
        is in a class of its own: it must not be compared with one-shot pruning as if nothing had been trained.`,
    ),
  ];
}

/** v3: what matching each layer gained. All tensors of a layer bear one record. */
function matchBlocks(tensors: ActivationSection["tensors"]): Block[] {
  const layers = new Map<string, MatchRecord>();
  for (const { match } of tensors) if (match !== undefined) layers.set(JSON.stringify(match), match);
  if (layers.size === 0) return [];
  const records = [...layers.values()];
  const mean = (pick: (record: MatchRecord) => number): Text => [
    significant(records.reduce((total, record) => total + pick(record), 0) / records.length, 3),
  ];
  const stood = records.filter(({ steps }) => steps === 0).length;
  return [
    paragraph(
      say`Behind that the survivors of each layer moved together, by gradient, until the layer's output on what the
        operated model feeds it came as near as they could to the donor's on its own. Of
        ${counted(records.length, "layer")} the mean squared error relative to the donor's stream fell from
        ${mean((record) => record.loss_before)} to
        ${mean((record) => record.loss_after)} on the calibration that taught; the held-out error, which chose when to
        stop, fell from ${mean((record) => record.held_out_before)} to ${mean((record) => record.held_out_after)}.${
          stood === 0 ? "" : ` ${stood} of them stayed as they were: no step did better on what was held out.`
        } The mask is as it was.`,
    ),
  ];
}

/**
 * Mean error of every projection after each stage that has one, in the order of the stages. Anchoring only moves what
 * is aimed at: it has none.
 */
export function meanErrors({ tensors }: Pick<ActivationSection, "tensors">): {
  stages: string[];
  projections: { projection: string; errors: (number | undefined)[]; group: readonly TensorStages[] }[];
} {
  const withErrors = tensors.flatMap((tensor) =>
    tensor.stages.filter(({ stage, relative_error }) => stage !== "anchor" && relative_error !== undefined),
  );
  const stages = [...new Set(withErrors.map(({ stage }) => stage))];
  return {
    stages,
    projections: [...groups(tensors)].map(([projection, group]) => ({
      projection,
      errors: stages.map((stage) => meanError(group, stage)),
      group,
    })),
  };
}

function groups(tensors: readonly TensorStages[]): Map<string, TensorStages[]> {
  const byProjection = new Map<string, TensorStages[]>();
  for (const tensor of tensors)
    byProjection.set(tensor.projection, [...(byProjection.get(tensor.projection) ?? []), tensor]);
  return byProjection;
}

function meanError(group: readonly TensorStages[], stage: string): number | undefined {
  const errors = group.flatMap(({ stages }) =>
    stages.flatMap((entry) =>
      entry.stage === stage && entry.relative_error !== undefined ? [entry.relative_error] : [],
    ),
  );
  return errors.length === 0 ? undefined : errors.reduce((total, error) => total + error, 0) / errors.length;
}

function sum(group: readonly TensorStages[], value: (tensor: TensorStages) => number): number {
  return group.reduce((total, tensor) => total + value(tensor), 0);
}
