// SPDX-License-Identifier: Apache-2.0
// The simulator's copy engine: tensor maps and what of them is refused, boxes with each swizzle and over the edges of
// their tensor.
#include <gtest/gtest.h>

#include "simulator/tensor_testing.h"

namespace moesaic::sim {
namespace {

/// [12][48] of which columns behind 40 belong to nobody: 100 row + column, 0xdead.
std::vector<u32> tensor_words() {
  std::vector<u16> all;
  for (u32 i = 0; i < kRows * kPitch; ++i) {
    all.push_back(static_cast<u16>(i % kPitch < kColumns ? i / kPitch * 100 + i % kPitch : 0xdead));
  }
  std::vector<u32> words(all.size() / 2);
  std::memcpy(words.data(), all.data(), 2 * all.size());
  return words;
}

constexpr u32 kDumped = 2048;  // bytes of shared memory from the box on, a word a thread
constexpr u32 kThreads = kDumped / 4;

std::string text(u32 value) { return std::to_string(value); }

// Thread 0 copies to room + `at` with the barrier behind the first half; all wait, and store what they then see.
std::string copy_and_dump(const std::string& copy, u32 bytes, u32 at) {
  return "mov.u32 %r1, room;\nsetp.ne.s32 %p0, %r0, 0;\n@%p0 bra wait;\n"
         "mbarrier.init.shared::cta.b64 [%r1+4096], 1;\n"
         "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1+4096], " +
         text(bytes) + ";\n" + copy +
         "wait:\nbar.sync 0;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1+4096], 0;\n"
         "@!%p1 bra again;\nshl.b32 %r5, %r0, 2;\nadd.s32 %r5, %r1, %r5;\nld.shared.u32 %r6, [%r5+" +
         text(at) + "];\nst.global.u32 [%mine], %r6;\n";
}

struct Corner {
  s32 column, row;
};
std::string copy_text(Corner corner, u32 at, const std::string& map = "%rd2", const std::string& kind = "") {
  return "mov.b64 %rd1, kernel_param_1;\ncvta.param.u64 %rd2, %rd1;\nprefetch.tensormap [%rd2];\nmov.u32 %r2, " +
         std::to_string(corner.column) + ";\ncp.async.bulk.tensor.2d.shared::cluster.global" + kind +
         ".mbarrier::complete_tx::bytes [%r1+" + text(at) + "], [" + map + ", {%r2, " + std::to_string(corner.row) +
         "}], [%r1+4096];\n";
}

std::vector<u16> halves(const std::vector<u32>& words) {
  std::vector<u16> all(2 * words.size());
  std::memcpy(all.data(), words.data(), 4 * words.size());
  return all;
}

std::vector<u16> dump_of_box(const Encode& encode, Corner corner, u32 at, Asynchronous async) {
  const Words tensor(tensor_words()), out{std::vector<u32>(kThreads)};
  const CUtensorMap map = encode.map(tensor.address);
  run_on(out, copy_and_dump(copy_text(corner, at), encode.bytes(), at),
         {.threads = kThreads, .asynchronous = async, .tensor_map = reinterpret_cast<const std::byte*>(&map)});
  return halves(out.get());
}

/// CUDA programming guide, "Swizzle Pattern Pointer Offset": of line y of 128 bytes, piece x of 16 lies where
/// ((y + offset) % period) ^ x is, offset = address / 128 % period. The period is 8, 4, 2; 1: no swizzle. Shared memory
/// that nothing was copied to holds 0xff.
std::vector<u16> expected_box(const Encode& encode, Corner corner, u32 at, u32 period) {
  std::vector<u16> all(kDumped / 2, 0xffff);
  for (u32 row = 0; row < encode.box[1]; ++row) {
    for (u32 column = 0; column < encode.box[0]; ++column) {
      const s32 x = corner.column + static_cast<s32>(column), y = corner.row + static_cast<s32>(row);
      const bool has = x >= 0 && x < s32{kColumns} && y >= 0 && y < s32{kRows};
      const u32 place = row * encode.box[0] + column;  // 64 elements a line, 8 a piece
      const u32 piece = (place / 64 + at / 128 % period) % period ^ place % 64 / 8;
      all[place / 64 * 64 + piece * 8 + place % 8] = static_cast<u16>(has ? 100 * y + x : 0);
    }
  }
  return all;
}

struct SwizzleCase {
  CUtensorMapSwizzle swizzle;
  u32 columns, period;
};
constexpr SwizzleCase kSwizzles[] = {{CU_TENSOR_MAP_SWIZZLE_NONE, 64, 1},
                                     {CU_TENSOR_MAP_SWIZZLE_NONE, 24, 1},
                                     {CU_TENSOR_MAP_SWIZZLE_32B, 16, 2},
                                     {CU_TENSOR_MAP_SWIZZLE_64B, 32, 4},
                                     {CU_TENSOR_MAP_SWIZZLE_128B, 64, 8}};

TEST(SimulatorTensorCopy, BoxesLieAsTheirSwizzleSays) {
  for (const SwizzleCase& c : kSwizzles) {
    for (const u32 at : {0u, 128u, 384u, 1024u}) {
      for (const Asynchronous async : {Asynchronous::kEarly, Asynchronous::kLate}) {
        Encode encode;
        encode.swizzle = c.swizzle, encode.box[0] = c.columns, encode.box[1] = 9;
        EXPECT_EQ(dump_of_box(encode, {0, 2}, at, async), expected_box(encode, {0, 2}, at, c.period))
            << c.swizzle << " at " << at;
      }
    }
  }
}

// By hand: row 1 of 128 swizzled bytes begins with its columns 8 to 15, which swap places with 0 to 7.
TEST(SimulatorTensorCopy, TheSecondRowOf128BytesSwapsItsPieces) {
  const std::vector<u16> got = dump_of_box({}, {0, 0}, 0, Asynchronous::kLate);
  EXPECT_EQ(got[0], 0u);
  EXPECT_EQ(got[8], 8u);
  EXPECT_EQ(got[64], 108u);
  EXPECT_EQ(got[64 + 8], 100u);
  EXPECT_EQ(got[64 + 16], 124u);
  EXPECT_EQ(got[64 + 39], 0u);  // piece 5 lies at 4, piece 4 (columns 32 to 39) at 5
  EXPECT_EQ(got[64 + 40], 132u);
  EXPECT_EQ(got[7 * 64 + 56], 700u);
}

TEST(SimulatorTensorCopy, ZerosAreWhereTheTensorIsNot) {
  const Corner corners[] = {{-3, -2}, {29, 7}, {-64, 0}, {0, -8}, {40, 0}, {0, 12}, {1 << 30, -(1 << 30)}};
  for (const Corner corner : corners) {
    EXPECT_EQ(dump_of_box({}, corner, 0, Asynchronous::kLate), expected_box({}, corner, 0, 8))
        << corner.column << ", " << corner.row;
  }
}

TEST(SimulatorTensorCopy, BytesAndOtherRanks) {
  const Words tensor({0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c, 0x13121110, 0, 0, 0});
  const auto dump = [&](const Encode& encode, const std::string& coordinates) {
    const Words out{std::vector<u32>(kThreads)};
    const CUtensorMap map = encode.map(tensor.address);
    const std::string copy =
        "mov.b64 %rd1, kernel_param_1;\ncvta.param.u64 %rd2, %rd1;\ncp.async.bulk.tensor." + text(encode.rank) +
        "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd2, " + coordinates + "], [%r1+4096];\n";
    run_on(out, copy_and_dump(copy, encode.bytes(), 0),
           {.threads = kThreads, .tensor_map = reinterpret_cast<const std::byte*>(&map)});
    std::vector<u32> got = out.get();
    got.resize(9);
    return got;
  };
  Encode encode;
  encode.type = CU_TENSOR_MAP_DATA_TYPE_UINT8, encode.swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
  encode.rank = 1, encode.sizes[0] = 17, encode.box = {16, 1, 1, 1, 1};
  EXPECT_EQ(dump(encode, "{3}"),
            (std::vector<u32>{0x06050403, 0x0a090807, 0x0e0d0c0b, 0x0000100f, ~0u, ~0u, ~0u, ~0u, ~0u}));
  // Two planes of one row of 16: the second plane, and none behind it.
  encode.rank = 3, encode.sizes = {16, 1, 2, 1, 1}, encode.strides = {16, 16, 0, 0}, encode.box = {16, 1, 2, 1, 1};
  EXPECT_EQ(dump(encode, "{0, 0, 1}"), (std::vector<u32>{0x13121110, 0, 0, 0, 0, 0, 0, 0, ~0u}));
}

TEST(SimulatorTensorCopy, AddressesAreSumsModulo2To64) {
  const Words tensor(tensor_words()), out{std::vector<u32>(kThreads)};
  const Encode encode = encode_of_slices(2 * kPitch, kColumns, 8);
  const CUtensorMap map = encode.map(tensor.address);
  const std::string copy =
      "mov.b64 %rd1, kernel_param_1;\ncvta.param.u64 %rd2, %rd1;\n"
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd2, " +
      corner_of_slice(0, 4, 3, 6) + "], [%r1+4096];\n";
  run_on(out, copy_and_dump(copy, encode.bytes(), 0),
         {.threads = kThreads, .tensor_map = reinterpret_cast<const std::byte*>(&map)});
  const std::vector<u16> got = halves(out.get());
  EXPECT_EQ(got[39], 739u);  // row 3 + 4 of all
  EXPECT_EQ(got[64 + 8], 800u);
  for (u32 i = 128; i < 512; ++i) EXPECT_EQ(got[i], 0u) << i;  // behind the slice's end
}

TEST(SimulatorTensorCopy, AMapMayLieInGlobalMemory) {
  const Words tensor(tensor_words()), out{std::vector<u32>(kThreads)};
  const CUtensorMap map = Encode{}.map(tensor.address);
  std::memcpy(reinterpret_cast<void*>(out.address), &map, sizeof(map));
  run_on(out, copy_and_dump(copy_text({5, 3}, 0, "%base", ".tile"), 1024, 0),
         {.threads = kThreads, .asynchronous = Asynchronous::kLate});
  EXPECT_EQ(halves(out.get()), expected_box({}, {5, 3}, 0, 8));
}

// Block 0 copies for both; each waits for its own bytes.
TEST(SimulatorTensorCopy, SeveralBlocksGetTheSameBox) {
  const std::string body =
      "mov.u32 %r1, room;\nmov.u32 %r10, %cluster_ctarank;\nsetp.ne.s32 %p0, %r0, 0;\n@%p0 bra ready;\n"
      "mbarrier.init.shared::cta.b64 [%r1+4096], 1;\n"
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1+4096], 1024;\nready:\n"
      "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n"
      "or.b32 %r11, %r0, %r10;\nsetp.ne.s32 %p2, %r11, 0;\n@%p2 bra wait;\n"
      "mov.b64 %rd1, kernel_param_1;\ncvta.param.u64 %rd2, %rd1;\nmov.u32 %r2, 0;\nmov.u16 %mask, 3;\n"
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1], "
      "[%rd2, {%r2, %r2}], [%r1+4096], %mask;\nwait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1+4096], 0;\n@!%p1 bra wait;\n"
      "shl.b32 %r5, %r0, 2;\nadd.s32 %r5, %r1, %r5;\nld.shared.u32 %r6, [%r5];\n"
      "mul.wide.u32 %rd3, %r10, 2048;\nadd.s64 %mine, %mine, %rd3;\nst.global.u32 [%mine], %r6;\n"
      "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";
  for (const Asynchronous async : {Asynchronous::kEarly, Asynchronous::kLate}) {
    const Words tensor(tensor_words()), out{std::vector<u32>(2 * kThreads)};
    const CUtensorMap map = Encode{}.map(tensor.address);
    run_on(out, ".reg .b16 %mask;\n" + body,
           {.threads = kThreads,
            .asynchronous = async,
            .cluster_blocks = 2,
            .tensor_map = reinterpret_cast<const std::byte*>(&map)});
    const std::vector<u16> got = halves(out.get()), wanted = expected_box({}, {0, 0}, 0, 8);
    EXPECT_EQ(std::vector<u16>(got.begin(), got.begin() + kDumped / 2), wanted);
    EXPECT_EQ(std::vector<u16>(got.begin() + kDumped / 2, got.end()), wanted);
  }
}

TEST(SimulatorTensorCopy, WhatIsUndefinedIsTold) {
  const Words tensor(tensor_words()), out{std::vector<u32>(kThreads)};
  const auto fault = [&](const Encode& encode, const std::string& copy) {
    const CUtensorMap map = encode.map(tensor.address);
    return fault_of(out, copy_and_dump(copy, encode.bytes(), 0),
                    {.threads = kThreads, .tensor_map = reinterpret_cast<const std::byte*>(&map)});
  };
  const auto expect = [](const std::string& got, const char* wanted) {
    EXPECT_NE(got.find(wanted), std::string::npos) << got;
  };
  EXPECT_EQ(fault({}, copy_text({0, 0}, 0)), "");
  expect(fault({}, copy_text({0, 0}, 64)), "no multiple of 128");
  expect(fault({}, copy_text({0, 0}, 0, "%base")), "no tensor map at");
  expect(fault({}, copy_text({0, 0}, 7296)), "at shared address");
  Encode three;
  three.rank = 3;
  expect(fault(three, copy_text({0, 0}, 0)), "a tensor map of rank 3");
  Encode narrow;
  narrow.box[0] = 32;
  expect(fault(narrow, copy_text({0, 0}, 0)), "narrower than its swizzle");
  Encode tall;
  tall.sizes[1] = kRows + 1;
  expect(fault(tall, copy_text({0, 5}, 0)), "are in no allocation");
  Encode one_short;  // the barrier waits for more than is copied
  EXPECT_NE(fault_of(out, copy_and_dump("", 16, 0), {.threads = 32}).find("nobody can go on"), std::string::npos);
}

// ---- the driver's checks --------------------------------------------------------------------------------------------

template <typename Change>
CUresult encoded(Change change, u64 address = 256) {
  Encode encode;
  change(encode);
  CUtensorMap map{};
  return encode.result(&map, address);
}

TEST(SimulatorTensorMap, ArgumentsAreThoseThatTheDriverTakes) {
  using E = Encode;
  EXPECT_EQ(encoded([](E&) {}), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E&) {}, 16), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E& e) { e.sizes[0] = u64{1} << 32; }), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E& e) { e.strides[0] = (u64{1} << 40) - 16; }), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E& e) { e.box[1] = 256; }), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E& e) { e.box[0] = 8; }), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E& e) { e.swizzle = CU_TENSOR_MAP_SWIZZLE_NONE, e.box[0] = 256; }), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E& e) { e.rank = 5; }), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E& e) { e = encode_of_slices(160, 64, 64); }), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E& e) { e = encode_of_slices(160, 64, 64), e.sizes[3] = u64{1} << 32; }), CUDA_SUCCESS);
  EXPECT_EQ(encoded([](E& e) { e.rank = 1, e.strides[0] = 1; }), CUDA_SUCCESS);  // not looked at
  EXPECT_EQ(encoded([](E& e) { e.type = CU_TENSOR_MAP_DATA_TYPE_UINT8, e.box[0] = 128; }), CUDA_SUCCESS);
}

TEST(SimulatorTensorMap, WrongArgumentsAreRefused) {
  using E = Encode;
  const auto invalid = CUDA_ERROR_INVALID_VALUE;
  EXPECT_EQ(encoded([](E&) {}, 8), invalid);
  EXPECT_EQ(encoded([](E& e) { e.rank = 0; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.rank = 6; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.sizes[1] = 0; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.sizes[0] = (u64{1} << 32) + 1; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.strides[0] = 88; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.strides[0] = u64{1} << 40; }), invalid);
  for (const u32 i : {1u, 2u}) {
    EXPECT_EQ(encoded([&](E& e) { e = encode_of_slices(160, 64, 64), e.strides[i] += 8; }), invalid);
    EXPECT_EQ(encoded([&](E& e) { e = encode_of_slices(160, 64, 64), e.strides[i] = u64{1} << 40; }), invalid);
    EXPECT_EQ(encoded([&](E& e) { e = encode_of_slices(160, 64, 64), e.sizes[i + 1] = (u64{1} << 32) + 1; }), invalid);
    EXPECT_EQ(encoded([&](E& e) { e = encode_of_slices(160, 64, 64), e.box[i + 1] = 0; }), invalid);
  }
  EXPECT_EQ(encoded([](E& e) { e.box[1] = 0; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.box[1] = 257; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.box[0] = 12; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.box[0] = 72; }), invalid);  // 144 bytes of 128
  EXPECT_EQ(encoded([](E& e) { e.swizzle = CU_TENSOR_MAP_SWIZZLE_64B; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.swizzle = CU_TENSOR_MAP_SWIZZLE_32B, e.box[0] = 24; }), invalid);
  EXPECT_EQ(encoded([](E& e) { e.element_strides[1] = 2; }), invalid);
  CUtensorMap maps[2];
  auto* const skewed = reinterpret_cast<CUtensorMap*>(reinterpret_cast<std::byte*>(maps) + 32);
  EXPECT_EQ(Encode{}.result(skewed, 256), invalid);
}

TEST(SimulatorTensorMap, WhatIsNotSimulatedSaysSo) {
  using E = Encode;
  const auto refused = CUDA_ERROR_NOT_SUPPORTED;
  EXPECT_EQ(encoded([](E& e) { e.interleave = CU_TENSOR_MAP_INTERLEAVE_16B; }), refused);
  EXPECT_EQ(encoded([](E& e) { e.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA; }), refused);
  EXPECT_EQ(encoded([](E& e) { e.type = CU_TENSOR_MAP_DATA_TYPE_TFLOAT32; }), refused);
  EXPECT_EQ(encoded([](E& e) { e.swizzle = CU_TENSOR_MAP_SWIZZLE_128B_ATOM_32B; }), refused);
}

}  // namespace
}  // namespace moesaic::sim
