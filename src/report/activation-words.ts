import type { ActivationSection } from "../surgery/surgery-report.js";
import { count, counted, percent, significant } from "./number-words.js";
import { type Block, code, paragraph, say, type Text } from "./report-text.js";

type TensorStages = ActivationSection["tensors"][number];

/** What v2 did: its calibration, and what each of its stages left of the error, by projection. */
export function activationBlocks({ calibration, tensors }: ActivationSection): Block[] {
  const blocks: Block[] = [
    paragraph(
      say`This flow consumes activations. Every weight is a tube fed by what the calibration text drives through it, and tubes are coupled by how their inputs are correlated; those that starve die, some sprout again where pressure builds up, and the survivors are healed by least squares so that a layer's outputs stay the donor's. Layers are operated in order, each on what the operated layers before it now compute.`,
    ),
  ];
  if (calibration !== undefined) {
    const { text, samples, tokens } = calibration;
    const source: Text = text === null ? say`text the donor wrote itself` : say`${code(text)}`;
    blocks.push(
      paragraph(say`It was calibrated on ${counted(samples, "sample")}, ${count(tokens)} tokens of ${source}.`),
    );
  }
  // Anchoring only moves what is aimed at: it has no error of its own.
  const stages = [...new Set(tensors.flatMap((tensor) => tensor.stages.map(({ stage }) => stage)))].filter(
    (stage) => stage !== "anchor",
  );
  if (tensors.length === 0 || stages.length === 0) return blocks;
  blocks.push({
    kind: "table",
    caption: "What the stages did, by projection",
    columns: [
      { name: "Projection" },
      ...stages.map((stage) => ({ name: `Error after ${stage}`, numeric: true })),
      { name: "Sprouted, of the living", numeric: true },
      { name: "Survivors healed, of the living", numeric: true },
    ],
    rows: [...groups(tensors)].map(([projection, group]) => [
      say`${code(projection)}`,
      ...stages.map((stage): Text => [significant(meanError(group, stage), 3)]),
      [percent(sum(group, (tensor) => tensor.exchanged_share * tensor.living) / sum(group, (tensor) => tensor.living))],
      [percent(sum(group, (tensor) => tensor.survivors_changed) / sum(group, (tensor) => tensor.living))],
    ]),
    note: say`Errors are those of a projection's outputs on the calibration text against what it was made to aim at, squared, tokens weighed as docs/flows.md says, relative to the energy of those outputs and averaged over its tensors; every tensor's own stand in surgery.json.`,
  });
  return blocks;
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
