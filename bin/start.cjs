// A file of its own: older versions of Node cannot even read `import()`.
"use strict";

import("../dist/cli/main.js");
