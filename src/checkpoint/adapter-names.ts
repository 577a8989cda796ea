import { PhysariumError } from "../errors.js";

/**
 * A name as it would be without the wrapper that adapter libraries put around a module: `q_proj.base_layer.weight` is
 * `q_proj.weight`.
 */
export function unwrapped(name: string): string {
  return name.replace(/\.base_layer(?=\.(?:weight|bias)$)/, "");
}

/** The names that a file has for tensors, by those that they would have without a wrapper. */
export function ownNames(names: Iterable<string>): (name: string) => string {
  const own = new Map([...names].map((name) => [unwrapped(name), name]));
  return (name) => own.get(name) ?? name;
}

/** Throws `DONOR_ADAPTER` for a factor of an adapter that was saved beside the matrix it changes. */
export function refuseAdapter(name: string): void {
  if (!/(?:^|\.)(?:lora_|modules_to_save\.|ia3_|oft_)/.test(name)) return;
  throw new PhysariumError(
    "DONOR_ADAPTER",
    `tensor "${name}" belongs to an adapter that was not merged into the model; merge it (merge_and_unload of PEFT) ` +
      "and save the whole model",
    { tensor: name },
  );
}
