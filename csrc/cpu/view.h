// The receptive field of some entities, layer by layer: loginmea_fast/view.py. Graph tensors are those of
// AlignmentGraph.
#pragma once

#include <cstdint>
#include <vector>

namespace loginmea {

// Numbers the entities from which `rows` entities are reached within `depth` edges. On entry entities [0, rows) and
// local say which are wanted; local is -1 for all others.
//
//   visit_order   [num_entities]; new numbers are given in this order, one hop after another
//   local         [num_entities], written: the number of an entity, -1 where it is not reached
//   entities      [num_entities], written: whose number it is
//   ptr           [num_entities + 1], written: places of the edges into the entities that need their edges
//
// The result: how many are reached in 0, 1 ... depth hops.
std::vector<std::int64_t> view_reach(std::int64_t num_entities, std::int64_t rows, std::int64_t depth,
                                     const std::int64_t* dst_ptr, const std::int32_t* dst_source,
                                     const std::int32_t* visit_order, std::int32_t* local, std::int64_t* entities,
                                     std::int64_t* ptr);

// Edges into entities [0, destinations), sources by number. dst_source and dst_set are sorted by set within a row.
void view_destinations(std::int64_t destinations, const std::int64_t* entities, const std::int32_t* local,
                       const std::int64_t* ptr, const std::int64_t* dst_ptr, const std::int32_t* dst_source,
                       const std::int32_t* dst_set, std::int32_t* source, std::int32_t* set, int num_threads);

// The same edges by (source, set, destination). `rank` [edges], in source order: the place of an edge in the row of its
// destination. Written: out_ptr [sources + 1]; destination, set and edge, the place in destination order.
void view_sources(std::int64_t sources, std::int64_t destinations, const std::int64_t* entities,
                  const std::int32_t* local, const std::int64_t* ptr, const std::int64_t* src_ptr,
                  const std::int32_t* src_destination, const std::int32_t* src_set, const std::int32_t* rank,
                  std::int64_t* out_ptr, std::int32_t* destination, std::int32_t* set, std::int32_t* edge,
                  int num_threads);

}  // namespace loginmea
