import { expect, test } from "vitest";
import * as api from "../dist/index.js";

test("the public surface is this list", () => {
  expect(Object.keys(api).sort()).toMatchInlineSnapshot(`
    [
      "DEFAULT_PARAMS",
      "FLOWS",
      "LayerRunner",
      "PHYSARIUM_VERSION",
      "PhysariumError",
      "TextTokenizer",
      "addSections",
      "checkOptions",
      "compareMethods",
      "deadInMatrix",
      "estimateWorth",
      "evaluate",
      "exitCodeOf",
      "exportGguf",
      "exportSparse",
      "generateTokens",
      "importGguf",
      "importSparse",
      "isPhysariumError",
      "openDonor",
      "openPacked",
      "operate",
      "packModel",
      "parseHeader",
      "planSurgery",
      "readDocuments",
      "readHeader",
      "readReport",
      "renderDocuments",
      "renderHtml",
      "renderMarkdown",
      "renderSummary",
      "runGate",
      "serializeHeader",
      "synthesize",
      "unpackModel",
      "unpackedView",
      "verify",
      "writeDocuments",
    ]
  `);
});
