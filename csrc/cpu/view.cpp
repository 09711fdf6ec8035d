// Every step is one pass over rows of the graph; what it costs is a small part of walking the edges once with features.
#include "view.h"

#include <algorithm>

namespace loginmea {

using std::int32_t;
using std::int64_t;

std::vector<int64_t> view_reach(int64_t num_entities, int64_t rows, int64_t depth, const int64_t* dst_ptr,
                                const int32_t* dst_source, const int32_t* visit_order, int32_t* local,
                                int64_t* entities, int64_t* ptr) {
  constexpr int32_t kAbsent = -1, kReached = -2;
  std::vector<int64_t> reached{rows};
  int64_t first = 0, count = rows;
  for (int64_t hop = 0; hop < depth; ++hop) {
    int64_t fresh = 0;
    for (int64_t l = first; l < count; ++l) {
      const int64_t i = entities[l];
      for (int64_t e = dst_ptr[i]; e < dst_ptr[i + 1]; ++e) {
        int32_t& number = local[dst_source[e]];
        if (number != kAbsent) continue;
        number = kReached;
        ++fresh;
      }
    }
    first = count;
    for (int64_t v = 0; v < num_entities && count < first + fresh; ++v) {
      const int32_t i = visit_order[v];
      if (local[i] != kReached) continue;
      local[i] = static_cast<int32_t>(count);
      entities[count++] = i;
    }
    reached.push_back(count);
  }
  ptr[0] = 0;
  const int64_t destinations = reached[std::max<int64_t>(depth - 1, 0)];
  for (int64_t l = 0; l < destinations; ++l) {
    ptr[l + 1] = ptr[l] + dst_ptr[entities[l] + 1] - dst_ptr[entities[l]];
  }
  return reached;
}

void view_destinations(int64_t destinations, const int64_t* entities, const int32_t* local, const int64_t* ptr,
                       const int64_t* dst_ptr, const int32_t* dst_source, const int32_t* dst_set, int32_t* source,
                       int32_t* set, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 512)
  for (int64_t l = 0; l < destinations; ++l) {
    const int64_t begin = dst_ptr[entities[l]], count = ptr[l + 1] - ptr[l];
    for (int64_t k = 0; k < count; ++k) source[ptr[l] + k] = local[dst_source[begin + k]];
    std::copy_n(dst_set + begin, count, set + ptr[l]);
  }
}

void view_sources(int64_t sources, int64_t destinations, const int64_t* entities, const int32_t* local,
                  const int64_t* ptr, const int64_t* src_ptr, const int32_t* src_destination, const int32_t* src_set,
                  const int32_t* rank, int64_t* out_ptr, int32_t* destination, int32_t* set, int32_t* edge,
                  int num_threads) {
  const auto within = [&](int64_t e) {
    const int32_t l = local[src_destination[e]];
    return l >= 0 && l < destinations ? l : -1;
  };
  out_ptr[0] = 0;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 512)
  for (int64_t l = 0; l < sources; ++l) {
    int64_t count = 0;
    for (int64_t e = src_ptr[entities[l]]; e < src_ptr[entities[l] + 1]; ++e) count += within(e) >= 0;
    out_ptr[l + 1] = count;
  }
  for (int64_t l = 0; l < sources; ++l) out_ptr[l + 1] += out_ptr[l];
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 512)
  for (int64_t l = 0; l < sources; ++l) {
    int64_t place = out_ptr[l];
    for (int64_t e = src_ptr[entities[l]]; e < src_ptr[entities[l] + 1]; ++e) {
      const int32_t i = within(e);
      if (i < 0) continue;
      destination[place] = i;
      set[place] = src_set[e];
      edge[place++] = static_cast<int32_t>(ptr[i] + rank[e]);
    }
  }
}

}  // namespace loginmea
