#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr std::size_t kStackBytes = 256 << 10, kGuardBytes = 4096;
constexpr unsigned kWarp = 32;

#if defined(__x86_64__)
// A fibre is its stack: what a call must preserve lies on top of it.
using Context = void*;
extern "C" void emulation_switch(Context* from, Context to);
asm(R"(
.text
.globl emulation_switch
.hidden emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, . - emulation_switch
)");
void switch_context(Context& from, Context& to) { emulation_switch(&from, to); }
void make_context(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // where the entry would return to; it does not
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  context = top;
}
#else
using Context = ucontext_t;
void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
void make_context(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

struct Copy {
  char* to;
  const char* from;
  std::size_t bytes;
};

struct Thread {
  Context context;
  unsigned number = 0;
  bool done = false;
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;                 // since the last commit
};

struct Warp {
  Meeting what{};
  unsigned mask = 0, arrived = 0, alive = 0;
  void* data[kWarp];
};

struct Variable {
  std::string name;
  std::size_t bytes;
  std::unique_ptr<char, void (*)(void*)> memory;
};

std::mutex one_launch;
std::vector<char*> stacks;
std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<unsigned> ready;  // numbers of threads
std::vector<Variable> variables;
std::size_t dynamic_bytes;
const std::function<void()>* body_of_kernel;
Context scheduler;
Thread* running;
unsigned at_barrier, unfinished;
std::uint64_t random_state;
std::string error;

std::uint64_t draw() {  // xorshift64*
  random_state ^= random_state >> 12, random_state ^= random_state << 25, random_state ^= random_state >> 27;
  return random_state * 0x2545f4914f6cdd1dull;
}

std::string where() {
  return " (block " + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
         std::to_string(blockIdx.z) + ", thread " + std::to_string(threadIdx.x) + ")";
}

void leave() { switch_context(running->context, scheduler); }

// Never returns: the block is given up.
void fail(const std::string& what) {
  if (error.empty()) error = what + where();
  leave();
}

void arrive(Copy& copy) { std::memcpy(copy.to, copy.from, copy.bytes); }

// A product rounded towards zero as it is added: no less exact than tensor cores, which truncate.
float add_truncated(float c, double sum) {
  const double exact = c + sum;
  float rounded = static_cast<float>(exact);
  if (std::fabs(static_cast<double>(rounded)) > std::fabs(exact) && std::isfinite(rounded)) {
    rounded = std::nextafterf(rounded, 0.0f);
  }
  return rounded;
}

float of_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
float tf32_of(std::uint32_t word) { return of_bits(word & ~0x1fffu); }
float bf16_of(std::uint32_t word, int half) { return of_bits(half ? word & 0xffff0000u : word << 16); }

// Fragments as "PTX ISA", 9.7.14 (Warp-Level Matrix Instructions), gives them, groupID = lane / 4 and
// threadID_in_group = lane % 4.
void multiply(Warp& warp) {
  const bool narrow = warp.what == Meeting::mma_bf16;
  const int depth = narrow ? 16 : 8;
  double a[16][16], b[16][8];
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const auto* product = static_cast<const Product*>(warp.data[lane]);
    const int group = lane / 4, member = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = group + (i % 2 ? 8 : 0);
      if (narrow) {
        for (int half = 0; half < 2; ++half) {
          a[row][member * 2 + half + (i / 2 ? 8 : 0)] = bf16_of(product->a[i], half);
        }
      } else {
        a[row][member + (i / 2 ? 4 : 0)] = tf32_of(product->a[i]);
      }
    }
    for (int i = 0; i < 2; ++i) {
      if (narrow) {
        for (int half = 0; half < 2; ++half) b[member * 2 + half + i * 8][group] = bf16_of(product->b[i], half);
      } else {
        b[member + i * 4][group] = tf32_of(product->b[i]);
      }
    }
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    float* c = static_cast<const Product*>(warp.data[lane])->c;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i / 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
      double sum = 0;
      for (int k = 0; k < depth; ++k) sum += a[row][k] * b[k][column];
      c[i] = add_truncated(c[i], sum);
    }
  }
}

void hold_meeting(Warp& warp) {
  switch (warp.what) {
    case Meeting::sync: return;
    case Meeting::shuffle:
      for (unsigned lane = 0; lane < kWarp; ++lane) {
        if (!(warp.arrived >> lane & 1)) continue;
        auto* mine = static_cast<Shuffle*>(warp.data[lane]);
        const bool there = warp.arrived >> mine->from & 1;
        mine->got = there ? static_cast<Shuffle*>(warp.data[mine->from])->bits : ~std::uint64_t{0};
      }
      return;
    case Meeting::ballot: {
      unsigned votes = 0;
      for (unsigned lane = 0; lane < kWarp; ++lane) {
        if (warp.arrived >> lane & 1) votes |= unsigned{static_cast<Ballot*>(warp.data[lane])->vote} << lane;
      }
      for (unsigned lane = 0; lane < kWarp; ++lane) {
        if (warp.arrived >> lane & 1) static_cast<Ballot*>(warp.data[lane])->got = votes;
      }
      return;
    }
    case Meeting::mma_tf32:
    case Meeting::mma_bf16: multiply(warp);
  }
}

// Lets a warp's lanes go on once those of the mask that still run have come.
void try_warp(unsigned number) {
  Warp& warp = warps[number];
  if (warp.arrived == 0 || (warp.mask & warp.alive & ~warp.arrived) != 0) return;
  if (warp.what >= Meeting::mma_tf32 && warp.arrived != ~0u) {
    error = "mma needs all lanes of the warp" + where();
    return;
  }
  hold_meeting(warp);
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (warp.arrived >> lane & 1) ready.push_back(number * kWarp + lane);
  }
  warp.arrived = 0;
}

void try_barrier() {
  if (at_barrier == 0 || at_barrier < unfinished) return;
  at_barrier = 0;
  for (const Thread& thread : threads) {
    if (!thread.done) ready.push_back(thread.number);
  }
}

void enter_thread() {
  (*body_of_kernel)();
  Thread& self = *running;
  self.done = true;
  --unfinished;
  warps[self.number / kWarp].alive &= ~(1u << self.number % kWarp);
  try_warp(self.number / kWarp);
  try_barrier();
  leave();
}

void run_block(unsigned count) {
  threads = std::vector<Thread>(count);
  warps.assign((count + kWarp - 1) / kWarp, Warp{});
  ready.clear();
  variables.clear();
  at_barrier = 0, unfinished = count;
  for (unsigned number = 0; number < count; ++number) {
    threads[number].number = number;
    make_context(threads[number].context, stacks[number], enter_thread);
    warps[number / kWarp].alive |= 1u << number % kWarp;
    ready.push_back(number);
  }
  while (!ready.empty() && error.empty()) {
    const std::size_t drawn = draw() % ready.size();
    std::swap(ready[drawn], ready.back());
    running = &threads[ready.back()];
    ready.pop_back();
    threadIdx = dim3(running->number);
    switch_context(scheduler, running->context);
  }
  if (error.empty() && unfinished > 0) {
    error = std::to_string(at_barrier) + " of " + std::to_string(unfinished) +
            " threads wait at __syncthreads, the others for lanes of their warp that do not come" + where();
  }
  variables.clear();
#if defined(__SANITIZE_ADDRESS__)
  if (!error.empty()) {  // fibres were left in the middle, and with them what the sanitizer noted of their stacks
    for (char* stack : stacks) __asan_unpoison_memory_region(stack, kStackBytes);
  }
#endif
}

}  // namespace

const char* run(dim3 grid, dim3 block, std::size_t dynamic_shared, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(one_launch);
  static std::uint64_t launches = 0;
  static std::string told;
  const char* seed = std::getenv("LOGINMEA_EMULATED_CUDA");
  random_state =
      0x9e3779b97f4a7c15ull * (std::strtoull(seed ? seed : "0", nullptr, 10) * 0x100000001b3ull + ++launches);
  if (random_state == 0) random_state = 1;
  error.clear();
  if (block.x == 0 || block.x > 1024 || block.y != 1 || block.z != 1) error = "blocks are of 1 to 1024 threads in x";
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    error = "a grid that no card takes";
  }
  while (stacks.size() < block.x) {
    char* room = static_cast<char*>(mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    mprotect(room, kGuardBytes, PROT_NONE);
    stacks.push_back(room + kGuardBytes);
  }
  body_of_kernel = &body, dynamic_bytes = dynamic_shared;
  gridDim = grid, blockDim = block;
  std::vector<std::uint64_t> order(error.empty() ? std::uint64_t{grid.x} * grid.y * grid.z : 0);
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[draw() % left]);
  for (std::uint64_t number : order) {
    blockIdx = dim3(static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                    static_cast<unsigned>(number / grid.x / grid.y));
    run_block(block.x);
    if (!error.empty()) break;
  }
  told = error;
  return told.empty() ? nullptr : told.c_str();
}

void* shared_memory(const char* name, std::size_t bytes) {
  for (const Variable& variable : variables) {
    if (variable.name == name) return variable.memory.get();
  }
  if (bytes == 0) bytes = dynamic_bytes;
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, bytes == 0 ? 1 : bytes) != 0) fail("no memory for shared memory");
  std::memset(memory, 0xff, bytes);  // NaN, and -1
  variables.push_back({name, bytes, {static_cast<char*>(memory), std::free}});
  return memory;
}

void meet_warp(Meeting what, unsigned mask, void* data) {
  const unsigned number = running->number / kWarp, lane = running->number % kWarp;
  Warp& warp = warps[number];
  if (!(mask >> lane & 1)) fail("a lane meets others under a mask that lacks it");
  if (warp.arrived != 0 && (warp.what != what || warp.mask != mask)) fail("lanes of a warp meet for different things");
  warp.what = what, warp.mask = mask;
  warp.arrived |= 1u << lane;
  warp.data[lane] = data;
  try_warp(number);
  leave();
}

void meet_block() {
  ++at_barrier;
  try_barrier();
  leave();
}

void copy(void* shared, const void* global, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(shared) % bytes || reinterpret_cast<std::uintptr_t>(global) % bytes) {
    fail("cp.async of " + std::to_string(bytes) + " bytes to or from an address that is no multiple of it");
  }
  char* to = static_cast<char*>(shared);
  const bool inside = std::any_of(variables.begin(), variables.end(), [&](const Variable& variable) {
    return to >= variable.memory.get() && to + bytes <= variable.memory.get() + variable.bytes;
  });
  if (!inside) fail("cp.async to what is not shared memory");
  std::memset(to, 0xff, bytes);
  running->open.push_back({to, static_cast<const char*>(global), bytes});
}

void commit() {
  running->groups.push_back(std::move(running->open));
  running->open.clear();
}

void wait(int pending) {
  auto& groups = running->groups;
  while (static_cast<int>(groups.size()) > pending) {
    for (Copy& copy : groups.front()) arrive(copy);
    groups.erase(groups.begin());
  }
}

}  // namespace emulation
