#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "cuda_runtime.h"

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
constexpr unsigned kWarp = 32, kGroup = 128;
constexpr std::size_t kSharedAlignment = 1024;

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

// Numbers that products add to: what they are, while the thread's own are NaN.
struct Accumulator {
  std::vector<float> numbers;
  std::size_t last;  // the product after which they are the thread's again
};

struct Thread {
  Context context;
  unsigned number = 0;
  bool done = false;
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;                 // since the last commit
  bool began = false;                     // products, by a fence
  std::size_t multiplied = 0;             // products so far
  std::vector<std::size_t> committed;     // how many there were at each commit, oldest first
  std::map<float*, Accumulator> accumulators;
};

// A product that threads of a warpgroup have asked for, and where each has its numbers.
struct Asked {
  GroupProduct what;
  unsigned count = 0;
  float* c[kGroup];
};
struct Group {
  std::vector<Asked> products;
  std::size_t made = 0;
  std::vector<unsigned> waiting;  // for a product that not all threads have asked for
};

struct Barrier {
  int arrivals, left;
  std::int64_t bytes = 0;
  unsigned phase = 0;
  std::vector<unsigned> waiting;
};

struct Box {
  char* to;
  CUtensorMap map;
  int column, row;
  std::uint64_t* barrier;
};

struct Warp {
  Meeting what{};
  unsigned mask = 0, arrived = 0, alive = 0;
  void* data[kWarp];
};

struct Variable {
  std::string name;
  std::size_t bytes;
  bool dynamic;  // the launch's own
  std::unique_ptr<char, void (*)(void*)> memory;
};

std::mutex one_launch;
std::vector<char*> stacks;
std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<unsigned> ready;  // numbers of threads
std::vector<Variable> variables;
std::vector<Group> groups;
std::map<std::uint64_t*, Barrier> barriers;
std::vector<Box> boxes;  // on their way
std::size_t dynamic_bytes, most_bytes;
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

bool is_shared(const char* from, std::size_t bytes) {
  return std::any_of(variables.begin(), variables.end(), [&](const Variable& variable) {
    return from >= variable.memory.get() && from + bytes <= variable.memory.get() + variable.bytes;
  });
}

// The word at this byte of a row of an operand, by the fields of its descriptor ("PTX ISA", 9.7.15.5).
std::uint32_t word_of(std::uint64_t descriptor, int row, int byte) {
  const char* start = reinterpret_cast<const char*>((descriptor & 0x3fff) << 4);
  const std::uint64_t between_groups = (descriptor >> 32 & 0x3fff) << 4;
  std::uint64_t at = reinterpret_cast<std::uint64_t>(start) + row / 8 * between_groups + row % 8 * 128 + byte;
  if (descriptor >> 62 == 1) at ^= (at >> 7 & 7) << 4;
  // Addresses count from the beginning of the launch's own shared memory.
  for (const Variable& variable : variables) {
    if (!variable.dynamic) continue;
    if (at + 4 > variable.bytes) break;
    std::uint32_t word;
    std::memcpy(&word, variable.memory.get() + at, 4);
    return word;
  }
  if (error.empty()) error = "wgmma reads what is not shared memory" + where();
  return 0;
}

// c [64 x N] += a [64 x 32 bytes] b [N x 32 bytes]^T; a warp's rows are 16, in them fragments lie as those of mma do.
void multiply_group(Asked& asked, unsigned group) {
  const int columns = asked.what.numbers * 2, depth = asked.what.narrow ? 16 : 8;
  const auto operand = [&](std::uint64_t descriptor, int rows) {
    std::vector<double> values(static_cast<std::size_t>(rows) * depth);
    for (int row = 0; row < rows; ++row) {
      for (int k = 0; k < depth; ++k) {
        const std::uint32_t word = word_of(descriptor, row, asked.what.narrow ? k / 2 * 4 : k * 4);
        values[row * depth + k] = asked.what.narrow ? bf16_of(word, k % 2) : tf32_of(word);
      }
    }
    return values;
  };
  const auto a = operand(asked.what.a, 64), b = operand(asked.what.b, columns);
  for (unsigned number = 0; number < kGroup; ++number) {
    Thread& thread = threads[group * kGroup + number];
    std::vector<float>& c = thread.accumulators.at(asked.c[number]).numbers;
    const int lane = number % kWarp;
    for (int i = 0; i < asked.what.numbers; ++i) {
      const int row = number / kWarp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      double sum = 0;
      for (int k = 0; k < depth; ++k) sum += a[row * depth + k] * b[column * depth + k];
      c[i] = add_truncated(c[i], sum);
    }
  }
}

void end_phase_if_complete(Barrier& barrier) {
  if (barrier.left != 0 || barrier.bytes != 0) return;
  ++barrier.phase, barrier.left = barrier.arrivals;
  ready.insert(ready.end(), barrier.waiting.begin(), barrier.waiting.end());
  barrier.waiting.clear();
}

Barrier& barrier_at(std::uint64_t* at) {
  const auto found = barriers.find(at);
  if (found != barriers.end()) return found->second;
  fail("a barrier that was not started");
  std::abort();  // not reached
}

std::size_t bytes_of(const CUtensorMap& map) { return std::size_t{map.box_columns} * map.box_rows * map.bytes; }

// One of the boxes on their way arrives, zeros where the table ends.
void land(std::size_t number) {
  const Box box = boxes[number];
  boxes.erase(boxes.begin() + static_cast<std::ptrdiff_t>(number));
  const CUtensorMap& map = box.map;
  for (std::uint32_t row = 0; row < map.box_rows; ++row) {
    for (std::uint32_t column = 0; column < map.box_columns; ++column) {
      const std::int64_t from_row = box.row + std::int64_t{row}, from_column = box.column + std::int64_t{column};
      const bool inside = from_row >= 0 && from_column >= 0 && from_row < static_cast<std::int64_t>(map.rows) &&
                          from_column < static_cast<std::int64_t>(map.columns);
      std::size_t at = row * map.box_columns * map.bytes + column * map.bytes;
      if (map.swizzled) at ^= (at >> 7 & 7) << 4;
      if (inside) {
        std::memcpy(box.to + at, map.data + from_row * map.row_bytes + from_column * map.bytes, map.bytes);
      } else {
        std::memset(box.to + at, 0, map.bytes);
      }
    }
  }
  Barrier& barrier = barriers.at(box.barrier);
  barrier.bytes -= static_cast<std::int64_t>(bytes_of(map));
  end_phase_if_complete(barrier);
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
  groups.assign(count / kGroup, Group{});
  barriers.clear();
  boxes.clear();
  at_barrier = 0, unfinished = count;
  for (unsigned number = 0; number < count; ++number) {
    threads[number].number = number;
    make_context(threads[number].context, stacks[number], enter_thread);
    warps[number / kWarp].alive |= 1u << number % kWarp;
    ready.push_back(number);
  }
  bool left_behind = false;
  while (!(ready.empty() && boxes.empty()) && error.empty()) {
    if (unfinished == 0) {
      left_behind = true;
      break;
    }
    if (!boxes.empty() && (ready.empty() || draw() % 64 == 0)) {
      land(draw() % boxes.size());
      continue;
    }
    const std::size_t drawn = draw() % ready.size();
    std::swap(ready[drawn], ready.back());
    running = &threads[ready.back()];
    ready.pop_back();
    threadIdx = dim3(running->number);
    switch_context(scheduler, running->context);
  }
  if (error.empty() && unfinished == 0 && left_behind) error = "copies are on their way when the block ends" + where();
  if (error.empty() && unfinished > 0) {
    error =
        std::to_string(at_barrier) + " of " + std::to_string(unfinished) +
        " threads wait at __syncthreads, the others for lanes of their warp that do not come, for products that not "
        "all of their warpgroup ask for or at a barrier in shared memory" +
        where();
  }
  variables.clear();
#if defined(__SANITIZE_ADDRESS__)
  if (!error.empty()) {  // fibres were left in the middle, and with them what the sanitizer noted of their stacks
    for (char* stack : stacks) __asan_unpoison_memory_region(stack, kStackBytes);
  }
#endif
}

}  // namespace

const char* run(dim3 grid, dim3 block, std::size_t dynamic_shared, std::size_t most_shared,
                const std::function<void()>& body) {
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
  body_of_kernel = &body, dynamic_bytes = dynamic_shared, most_bytes = most_shared;
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
  const bool dynamic = bytes == 0;
  if (dynamic) bytes = dynamic_bytes;
  std::size_t together = dynamic ? bytes : bytes + dynamic_bytes;
  for (const Variable& variable : variables) together += variable.dynamic ? 0 : variable.bytes;
  if (together > most_bytes) fail("more shared memory than the launch asked for");
  void* memory = nullptr;
  if (posix_memalign(&memory, kSharedAlignment, bytes == 0 ? 1 : bytes) != 0) fail("no memory for shared memory");
  std::memset(memory, 0xff, bytes);  // NaN, and -1
  variables.push_back({name, bytes, dynamic, {static_cast<char*>(memory), std::free}});
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
  if (!is_shared(to, bytes)) fail("cp.async to what is not shared memory");
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

void begin_products() { running->began = true; }

void multiply_group(const GroupProduct& product) {
  Thread& self = *running;
  const unsigned number = self.number / kGroup;
  if (number >= groups.size()) fail("wgmma needs a warpgroup of 128 threads");
  auto& products = groups[number].products;
  if (self.multiplied == products.size()) products.push_back({product, 0, {}});
  Asked& asked = products[self.multiplied];
  if (asked.what.a != product.a || asked.what.b != product.b || asked.what.numbers != product.numbers) {
    fail("threads of a warpgroup ask for different products");
  }
  const auto found = self.accumulators.find(product.c);
  if (found == self.accumulators.end()) {
    if (!self.began) fail("wgmma adds to registers without wgmma.fence");
    self.accumulators[product.c] = {{product.c, product.c + product.numbers}, self.multiplied};
  } else {
    const auto* bytes = reinterpret_cast<const unsigned char*>(product.c);
    if (std::any_of(bytes, bytes + 4 * product.numbers, [](unsigned char byte) { return byte != 0xff; })) {
      fail("registers are written before the products that add to them have ended");
    }
    found->second.last = self.multiplied;
  }
  std::memset(product.c, 0xff, 4 * static_cast<std::size_t>(product.numbers));
  asked.c[self.number % kGroup] = product.c;
  ++self.multiplied;
  if (++asked.count < kGroup) return;
  auto& waiting = groups[number].waiting;
  ready.insert(ready.end(), waiting.begin(), waiting.end());
  waiting.clear();
}

void commit_products() { running->committed.push_back(running->multiplied); }

void wait_for_products(int pending) {
  Thread& self = *running;
  const unsigned number = self.number / kGroup;
  std::size_t ended = 0;
  while (static_cast<int>(self.committed.size()) > pending) {
    ended = self.committed.front();
    self.committed.erase(self.committed.begin());
  }
  for (Group& group = groups[number]; group.made < ended;) {
    if (group.products[group.made].count == kGroup) {
      multiply_group(group.products[group.made++], number);
    } else {
      group.waiting.push_back(self.number);
      leave();
    }
  }
  for (auto at = self.accumulators.begin(); at != self.accumulators.end();) {
    if (at->second.last >= ended) {
      ++at;
      continue;
    }
    std::copy(at->second.numbers.begin(), at->second.numbers.end(), at->first);
    at = self.accumulators.erase(at);
  }
  if (self.accumulators.empty()) self.began = false;
}

std::uint32_t shared_address(const void* shared) {
  const char* from = static_cast<const char*>(shared);
  for (const Variable& variable : variables) {
    const char* memory = variable.memory.get();
    if (variable.dynamic && from >= memory && from < memory + variable.bytes) return from - memory;
  }
  fail("an operand of wgmma lies outside the launch's own shared memory");
  return 0;
}

void start_barrier(std::uint64_t* barrier, int arrivals) {
  if (!is_shared(reinterpret_cast<const char*>(barrier), 8)) fail("a barrier outside shared memory");
  barriers[barrier] = {arrivals, arrivals, 0, 0, {}};
}

void arrive_at_barrier(std::uint64_t* barrier, int bytes) {
  Barrier& at = barrier_at(barrier);
  if (at.left == 0) fail("more arrivals at a barrier than its phase has");
  at.bytes += bytes, --at.left;
  end_phase_if_complete(at);
}

void wait_for_barrier(std::uint64_t* barrier, int parity) {
  while (static_cast<int>(barrier_at(barrier).phase % 2) == parity) {
    barrier_at(barrier).waiting.push_back(running->number);
    leave();
  }
}

void copy_box(void* shared, const CUtensorMap& map, int column, int row, std::uint64_t* barrier) {
  barrier_at(barrier);
  char* to = static_cast<char*>(shared);
  if (!is_shared(to, bytes_of(map))) fail("a tensor copy to what is not shared memory");
  if (reinterpret_cast<std::uintptr_t>(to) % kSharedAlignment) fail("a swizzled box off a boundary of 1,024 bytes");
  std::memset(to, 0xff, bytes_of(map));
  boxes.push_back({to, map, column, row, barrier});
}

void copy_row(void* shared, const void* global, int bytes, std::uint64_t* barrier) {
  barrier_at(barrier);
  char* to = static_cast<char*>(shared);
  const auto size = static_cast<std::uint32_t>(bytes);
  if (!is_shared(to, size)) fail("a bulk copy to what is not shared memory");
  if (size % 16 || reinterpret_cast<std::uintptr_t>(to) % 16 || reinterpret_cast<std::uintptr_t>(global) % 16) {
    fail("a bulk copy of what is no multiple of 16 bytes, or lies at none");
  }
  std::memset(to, 0xff, size);
  boxes.push_back({to, {static_cast<const char*>(global), size, 1, size, size, 1, 1, false}, 0, 0, barrier});
}

}  // namespace emulation

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, int,
                                             cudaDriverEntryPointQueryResult* result) {
  if (std::string(name) != "cuTensorMapEncodeTiled") return cudaErrorInvalidValue;
  *function = reinterpret_cast<void*>(&cuTensorMapEncodeTiled);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data,
                                const cuuint64_t* size, const cuuint64_t* row_bytes, const cuuint32_t* box,
                                const cuuint32_t* every, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  const std::uint32_t bytes = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ? 2 : 4;
  const bool right = rank == 2 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && row_bytes[0] % 16 == 0 &&
                     size[0] > 0 && size[1] > 0 && box[0] * bytes == 128 && box[1] <= 256 && every[0] == 1 &&
                     every[1] == 1 && fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  if (!right) return CUDA_ERROR_INVALID_VALUE;
  *map = {static_cast<const char*>(data),       size[0], size[1], row_bytes[0], box[0], box[1], bytes,
          swizzle == CU_TENSOR_MAP_SWIZZLE_128B};
  return CUDA_SUCCESS;
}
