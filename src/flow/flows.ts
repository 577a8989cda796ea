import type { DataFreeFlow } from "./reference.js";

/** What a flow is, for the command line, the ledger and the report. Adding one: its file, a line here, a fixture. */
export interface FlowDefinition {
  readonly name: DataFreeFlow | "activation" | "matched";
  readonly version: string;
  /** v2 may only be claimed by a flow that consumes activations. */
  readonly consumesActivations: boolean;
  readonly summary: string;
  readonly reference: string;
}

/** Every flow, in the order of their versions; a ledger names one of these. */
export const FLOWS: readonly FlowDefinition[] = [
  {
    name: "magnitude",
    version: "v1",
    consumesActivations: false,
    summary: "drives are magnitudes in units of the tile's mean",
    reference: "our reconstruction of the seed report's magnitude flow, which states no formula; docs/flows.md",
  },
  {
    name: "balanced",
    version: "v1-balanced",
    consumesActivations: false,
    summary: "drives are shares of a flow in which every channel of the tile sends and draws one unit",
    reference: "Sinkhorn & Knopp 1967 for the balance; docs/flows.md",
  },
  {
    name: "activation",
    version: "v2",
    consumesActivations: true,
    summary:
      "drives and their coupling come from calibration activations; starved tubes sprout again and survivors are " +
      "healed",
    reference: "docs/flows.md",
  },
  {
    name: "matched",
    version: "v3",
    consumesActivations: true,
    summary:
      "activation, and then the survivors of each layer move together, by gradient, until its output is the donor's",
    reference: "docs/flows.md",
  },
];

/** Whether a flow looks at weights alone: such a one has a kernel and a reference. */
export function isDataFree(name: FlowDefinition["name"]): name is DataFreeFlow {
  return name === "magnitude" || name === "balanced";
}

export function findFlow(name: string): FlowDefinition | undefined {
  return FLOWS.find((flow) => flow.name === name);
}
