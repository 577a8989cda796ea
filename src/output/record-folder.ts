/** The folder in an output that holds everything of ours; loaders ignore it. */
export const RECORD_FOLDER = "physarium";

/** The ledger in it: where it stands, surgery wrote the folder (record/ledger.ts knows what is in it). */
export const LEDGER_FILE = "ledger.jsonl";
