import { type Donor, type Model, openDonor } from "../checkpoint/donor.js";
import type { FileLayer } from "../checkpoint/file-layer.js";
import { withLoadWarnings } from "../probe/load-warnings.js";

/** A donor for a plan: opened, with what loading it gives to be warned of. */
export async function openForSurgery(model: Model, files?: FileLayer): Promise<Donor> {
  return withLoadWarnings(await openDonor(model, files));
}
