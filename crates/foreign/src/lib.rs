//! Anyone's Burn module: recorded, quantized, and given back.
