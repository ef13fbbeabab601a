// Keys and values of the KV cache, in blocks of 32 positions of a head that are panels themselves. Knows no attention.
//
// A block of keys is a panel whose columns are positions and whose inputs are a head's numbers: scores = Q K'. A block
// of values is 32 inputs (positions) of panels whose columns are a head's numbers: P V.
#pragma once

#include "runner_abi.h"

namespace runner {

constexpr int64_t KV_BLOCK = 32; // positions

struct KvBlocks {
  const Model &m;
  const Step &s;

  bf16 *keys(int64_t layer, int64_t slot, int64_t head) const { return s.keys + offset(layer, slot, head); }
  bf16 *values(int64_t layer, int64_t slot, int64_t head) const { return s.values + offset(layer, slot, head); }

  // Writes the key of one position, head_dim numbers.
  void store_key(int64_t layer, int64_t slot, int64_t head, int64_t position, const float *key) const {
    bf16 *to = keys(layer, slot, head) + position / KV_BLOCK * KV_BLOCK * m.head_dim +
               position % KV_BLOCK / tiles::HALF * tiles::TILE + position % tiles::HALF * 2;
    alignas(64) bf16 line[tiles::K_BLOCK];
    for (int64_t d = 0; d < m.head_dim; d += tiles::K_BLOCK, to += tiles::PANEL_BLOCK) {
      for (int i = 0; i < tiles::K_BLOCK; i += vectors::LANES) vectors::store(line + i, vectors::load(key + d + i));
      for (int pair = 0; pair < gemm::PAIRS; pair++)
        std::memcpy(to + pair * 2 * tiles::HALF, line + pair * 2, 2 * sizeof(bf16));
    }
  }

  // The same for a value.
  void store_value(int64_t layer, int64_t slot, int64_t head, int64_t position, const float *value) const {
    bf16 *to = values(layer, slot, head) + position / KV_BLOCK * KV_BLOCK * m.head_dim +
               position % KV_BLOCK / 2 * 2 * tiles::HALF + position % 2;
    alignas(64) bf16 line[tiles::HALF];
    for (int64_t d = 0; d < m.head_dim; d += tiles::HALF, to += tiles::TILE) {
      vectors::store(line, vectors::load(value + d));
      for (int c = 0; c < tiles::HALF; c++) to[c * 2] = line[c];
    }
  }

private:
  int64_t offset(int64_t layer, int64_t slot, int64_t head) const {
    return ((layer * s.slots + slot) * m.kv_heads + head) * s.capacity * m.head_dim;
  }
};

} // namespace runner
