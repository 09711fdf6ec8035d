// Device side of alignment search: a list that a warp keeps, a list that a lane keeps, and the question a score
// answers.
#pragma once

#include <cstdint>

namespace loginmea::search {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kLongest = 128;  // list

// A list in the registers of a warp, slot s with lane s % 32. Lanes beyond the capacity hold infinity, which stays.
struct WarpList {
  static constexpr int kSlots = kLongest / kWarp;
  float value[kSlots];
  std::int32_t index[kSlots];
  float smallest;

  __device__ void load(const float* values, const std::int32_t* indices, int capacity, int lane) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int slot = s * kWarp + lane;
      value[s] = slot < capacity ? values[slot] : INFINITY;
      index[s] = slot < capacity ? indices[slot] : -1;
    }
    find_smallest();
  }

  __device__ void store(float* values, std::int32_t* indices, int capacity, int lane) const {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int slot = s * kWarp + lane;
      if (slot < capacity) values[slot] = value[s], indices[slot] = index[s];
    }
  }

  // All lanes pass the same v > smallest.
  __device__ void replace(float v, std::int32_t i, int lane) {
    unsigned holders = 0;
    int at = 0;
#pragma unroll
    for (int s = kSlots - 1; s >= 0; --s) {
      const unsigned here = __ballot_sync(kAll, value[s] == smallest);
      if (here) holders = here, at = s;
    }
    const bool mine = lane == __ffs(static_cast<int>(holders)) - 1;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (mine && s == at) value[s] = v, index[s] = i;
    }
    find_smallest();
  }

 private:
  __device__ void find_smallest() {
    smallest = value[0];
#pragma unroll
    for (int s = 1; s < kSlots; ++s) smallest = fminf(smallest, value[s]);
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) smallest = fminf(smallest, __shfl_xor_sync(kAll, smallest, step));
  }
};

// A list that one lane keeps in shared memory, slots kWarp apart so that lanes never meet in a bank.
struct LaneList {
  float* value;
  std::int32_t* index;
  int capacity;
  int place;  // of the smallest

  __device__ float smallest() const { return value[place * kWarp]; }

  __device__ void replace(float v, std::int32_t i) {
    value[place * kWarp] = v, index[place * kWarp] = i;
    find_smallest();
  }

  __device__ void find_smallest() {
    place = 0;
    for (int s = 1; s < capacity; ++s) {
      if (value[s * kWarp] < value[place * kWarp]) place = s;
    }
  }
};

enum class Answer { below, above, undecided };

// Is a score above a threshold, given both less and plus the bound on its error?
__device__ inline Answer ask(float scaled, float high, float low, float above, float below) {
  if (scaled - high > above) return Answer::above;
  return scaled - low >= below ? Answer::undecided : Answer::below;
}

}  // namespace loginmea::search
