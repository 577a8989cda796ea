// The kernels of surgery, one module: what src/flow/kernels.ts calls.

export {
  addColumnsBf16,
  addColumnsF16,
  addColumnsF32,
  applyDrivesBf16,
  applyDrivesF16,
  applyDrivesF32,
  balanceRowsBf16,
  balanceRowsF16,
  balanceRowsF32,
  invert,
} from "./surgery/balanced";
export { balanceTileBf16, balanceTileF16, balanceTileF32 } from "./surgery/balanced-tile";
export {
  countBalancedBf16,
  countBalancedF16,
  countBalancedF32,
  countDrivesBf16,
  countDrivesF16,
  countDrivesF32,
} from "./surgery/drives";
export { applyCuts16, applyCuts32, sumTilesBf16, sumTilesF16, sumTilesF32 } from "./surgery/magnitude";
