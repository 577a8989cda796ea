import { expect, test } from "vitest";
import * as api from "../dist/index.js";

test("the public surface is this list", () => {
  expect(Object.keys(api).sort()).toMatchInlineSnapshot(`
    [
      "DEFAULT_PARAMS",
      "FLOWS",
      "PHYSARIUM_VERSION",
      "PhysariumError",
      "addSections",
      "checkOptions",
      "deadInMatrix",
      "exitCodeOf",
      "isPhysariumError",
      "openDonor",
      "operate",
      "parseHeader",
      "planSurgery",
      "readDocuments",
      "readHeader",
      "readReport",
      "renderDocuments",
      "renderHtml",
      "renderMarkdown",
      "renderSummary",
      "serializeHeader",
      "synthesize",
      "verify",
      "writeDocuments",
    ]
  `);
});
