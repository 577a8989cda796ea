/** What happens in the farm, for whoever looks on: the journal, the page, the metrics. */
export type FarmEvent =
  | { readonly event: "queued"; readonly body: string; readonly organ: string; readonly waiting: number }
  | {
      readonly event: "loading";
      readonly body: string;
      readonly form: string;
      readonly tier: string;
      readonly reason: string;
      readonly gpu_layers: number;
    }
  | {
      readonly event: "loaded";
      readonly body: string;
      readonly form: string;
      readonly tier: string;
      readonly seconds: number;
      readonly ram_bytes: number;
      readonly vram_bytes: number;
      readonly pid: number | null;
    }
  | { readonly event: "load_failed"; readonly body: string; readonly form: string; readonly message: string }
  | {
      readonly event: "wrong_estimate";
      readonly body: string;
      readonly form: string;
      readonly expected_bytes: number;
      readonly measured_bytes: number;
    }
  | { readonly event: "evicted"; readonly body: string; readonly reason: string }
  | { readonly event: "draining"; readonly body: string; readonly for: string }
  | { readonly event: "crashed"; readonly body: string; readonly reason: string }
  | { readonly event: "pinned"; readonly body: string; readonly pinned: boolean };

export type FarmListener = (event: FarmEvent) => void;
