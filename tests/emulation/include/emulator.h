// Executes CUDA C++ on the CPU, one block after the other, each thread a fibre.
//
// A thread runs until it meets others: at __syncthreads its block, at a shuffle, a ballot, __syncwarp or mma its warp.
// Which of the threads that could go on does is drawn at random, from $LOGINMEA_EMULATED_CUDA and the number of the
// launch, and so is the order of blocks: a result that depends on an order that nothing enforces differs from run to
// run. Shared memory is full of NaN when a block begins. What cp.async brings is NaN from its start until its thread
// has waited for it; what a tensor copy brings, until a moment that is drawn. Products of a warpgroup are made when
// they are waited for, from what shared memory holds then, and until then their registers are NaN. Whatever has no
// meaning on a card ends the launch with an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "cuda.h"

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Those of the thread that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// Runs body() for every thread; the error, or null. A block has `most_shared` bytes, those of its variables included.
const char* run(dim3 grid, dim3 block, std::size_t dynamic_shared, std::size_t most_shared,
                const std::function<void()>& body);

// The block's variable of this name, or its room for the launch's bytes where `bytes` is 0.
void* shared_memory(const char* name, std::size_t bytes);
template <class T>
std::remove_reference_t<T>& shared(const char* name) {
  return *static_cast<std::remove_reference_t<T>*>(shared_memory(name, sizeof(T)));
}

enum class Meeting { sync, shuffle, ballot, mma_tf32, mma_bf16 };

struct Shuffle {
  std::uint64_t bits;  // given
  unsigned from;       // lane
  std::uint64_t got;   // NaN from a lane that is not there
};
struct Ballot {
  bool vote;
  unsigned got;
};
struct Product {
  float* c;
  const std::uint32_t *a, *b;
};

// Waits for the lanes of `mask`, all of which must come for the same thing with data of the same meaning.
void meet_warp(Meeting what, unsigned mask, void* data);
void meet_block();

template <class T>
T shuffle(unsigned mask, T value, unsigned from) {
  static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
  Shuffle moved{0, from, 0};
  std::memcpy(&moved.bits, &value, sizeof value);
  meet_warp(Meeting::shuffle, mask, &moved);
  std::memcpy(&value, &moved.got, sizeof value);
  return value;
}

// A product of a warpgroup: `numbers` of each thread, and the descriptors of its operands.
struct GroupProduct {
  float* c;
  int numbers;
  std::uint64_t a, b;
  bool narrow;
};
void begin_products();
void multiply_group(const GroupProduct& product);
void commit_products();
void wait_for_products(int pending);

std::uint32_t shared_address(const void* shared);
void start_barrier(std::uint64_t* barrier, int arrivals);
void arrive_at_barrier(std::uint64_t* barrier, int bytes);  // bytes: that it is to expect, too
void wait_for_barrier(std::uint64_t* barrier, int parity);
void copy_row(void* shared, const void* global, int bytes, std::uint64_t* barrier);
void copy_box(void* shared, const CUtensorMap& map, int column, int row, std::uint64_t* barrier);

void copy(void* shared, const void* global, std::size_t bytes);
void commit();
void wait(int pending);

}  // namespace emulation
