// Numbers too small for a float's full precision, below 1.2e-38, as zeros.
#pragma once

#if defined(__SSE__)
#include "cpu/intrinsics.h"
#endif

namespace loginmea {

// While it lives, its thread takes such numbers for zero, read and written. Weights of a softmax fall that low as soon
// as a model is sure of its links; Intel's processors then need 150 cycles for a multiply-add that takes half of one,
// and a training step takes several times as long. Of what is summed here they are less than the last bit.
class FlushSubnormals {
 public:
#if defined(__SSE__)
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kReadAsZero); }
  ~FlushSubnormals() { _mm_setcsr(before_); }
#else
  FlushSubnormals() {}
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

#if defined(__SSE__)
 private:
  static constexpr unsigned kFlushToZero = 0x8000, kReadAsZero = 0x0040;
  const unsigned before_;
#endif
};

}  // namespace loginmea
