// SPDX-License-Identifier: Apache-2.0
// Cache and bundles with a compiler that is none: many processes at once, processes killed anywhere, files damaged
// anywhere.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "module/bundle.h"
#include "module/cache.h"
#include "module/store.h"
#include "tests/module/child.h"
#include "tests/module/fake_cubin.h"
#include "tests/module/fire_cases.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
constexpr std::chrono::milliseconds kMostDelay{20};
using testing::Child;
using testing::expect_error;
using testing::fake_cubin;
using testing::image_of;
using testing::kill_amid;
using testing::RandomDelays;
using testing::ScopedEnv;
using testing::small_instance;
using testing::small_instances;
using testing::TemporaryFolder;

struct UnderFire : ::testing::Test {
  TemporaryFolder folder;
  KernelInstance instance = small_instance();
  std::string id = identity(instance);

  ModuleOptions options(const std::string& cache = "cache") const {
    return testing::compiling_options(folder / cache, MOESAIC_FAKE_NVRTC);
  }
};

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// Every bit is flipped somewhere.
std::string flipped(std::string bytes, std::size_t at) {
  bytes[at] = static_cast<char>(bytes[at] ^ (1 << at % 8));
  return bytes;
}

// ---- many processes -------------------------------------------------------------------------------------------------

TEST_F(UnderFire, TwoHundredProcessesCompileEachKernelOnce) {
  if (testing::nvrtc_is_loaded()) {  // by another test
    EXPECT_EQ(testing::run_alone("UnderFire.TwoHundredProcessesCompileEachKernelOnce"), 0);
    return;
  }
  testing::expect_each_compiled_once(options(), 200);
  EXPECT_EQ(Cache(folder / "cache").list().size(), small_instances().size());
}

// ---- SIGKILL, a hundred times in all --------------------------------------------------------------------------------

TEST_F(UnderFire, ProcessesKilledWhileCompilingBlockAndBreakNothing) {
  const ScopedEnv slow("MOESAIC_FAKE_NVRTC", "slow");
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(Child([&] { return Store(options("timed")).get_all(small_instances(), 1).empty() ? 1 : 0; }).wait(), 0);
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  RandomDelays delays;
  int unfinished = 0;
  for (int i = 0; i < 34; ++i) {
    SCOPED_TRACE(i);
    unfinished += testing::expect_next_gets_all_after_kill(options("cache" + std::to_string(i)), delays, whole) ? 1 : 0;
  }
  EXPECT_GT(unfinished, 0) << "no kill fell into a compile";
}

// Whether a process was killed amid a write: what it was writing is there, beside what is whole.
bool has_temporaries(const std::string& folder_path) {
  std::error_code none;
  for (const auto& item : fs::directory_iterator(folder_path, none)) {
    if (item.path().filename().string().find(".tmp.") != std::string::npos) return true;
  }
  return false;
}

TEST_F(UnderFire, ProcessesKilledWhileWritingToTheCacheBlockAndBreakNothing) {
  const Cache cache(folder / "cache");
  const std::string key = cache_key(id, "build", {});
  const std::string images[] = {std::string(300'000, 'a'), std::string(200'000, 'b')};
  const auto store = [&](const std::string& image) {
    const auto lock = cache.lock(key);
    return lock ? cache.store(key, instance, fake_cubin(instance, image), *lock) : "no lock";
  };
  const std::string entries = cache.folder() + "/" + key.substr(0, 2);
  RandomDelays delays;
  int found_whole = 0, amid_writes = 0;
  for (int i = 0; i < 33; ++i) {
    kill_amid([&](int turn) { store(images[turn % 2]); }, delays, kMostDelay);
    amid_writes += has_temporaries(entries) ? 1 : 0;
    std::string damage;
    if (const auto found = cache.lookup(key, id, &damage)) {
      ++found_whole;
      const std::string image = image_of(*found);
      EXPECT_TRUE(image == images[0] || image == images[1] || (i > 0 && image == "next")) << i;
    }
    EXPECT_EQ(damage, "") << i;
    EXPECT_EQ(store("next"), "") << i;
    EXPECT_EQ(image_of(*cache.lookup(key, id, nullptr)), "next") << i;
    const auto left = std::distance(fs::directory_iterator(entries), {});
    EXPECT_EQ(left, 1) << "temporaries of the killed are swept, " << i;
  }
  EXPECT_GT(found_whole, 0);
  EXPECT_GT(amid_writes, 0) << "no kill fell into a write";
}

TEST_F(UnderFire, ProcessesKilledWhileWritingABundleLeaveTheOldOrTheNew) {
  const std::string path = folder / "kernels.zip";
  const std::string images[] = {std::string(300'000, 'a'), std::string(200'000, 'b')};
  const auto write = [&](const std::string& image) {
    return write_bundle(path, {{instance, std::make_shared<Cubin>(fake_cubin(instance, image))}});
  };
  ASSERT_TRUE(write(images[0]));
  RandomDelays delays;
  int amid_writes = 0;
  for (int i = 0; i < 33; ++i) {
    kill_amid([&](int turn) { write(images[turn % 2]); }, delays, kMostDelay);
    amid_writes += has_temporaries(folder.path()) ? 1 : 0;
    const std::string image = image_of(*Bundle(path).get(id));
    EXPECT_TRUE(image == images[0] || image == images[1]) << i;
    EXPECT_TRUE(write(images[i % 2])) << i;
    EXPECT_EQ(image_of(*Bundle(path).get(id)), images[i % 2]) << i;
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1) << "what the killed left is swept, " << i;
  }
  EXPECT_GT(amid_writes, 0) << "no kill fell into a write";
}

// ---- damaged and foreign files --------------------------------------------------------------------------------------

struct DamagedEntry : UnderFire {
  Cache cache{folder / "cache"};
  std::string key = cache_key(id, "build", {});
  std::string entry = folder / ("cache/" + key.substr(0, 2) + "/" + key);
  std::string image = std::string(5000, 'c');
  std::string meta;

  void SetUp() override {
    store();
    meta = base::read_file(entry + "/meta.json", 1 << 20);
  }
  void store() {
    const auto lock = cache.lock(key);
    ASSERT_TRUE(lock.has_value());
    ASSERT_EQ(cache.store(key, instance, fake_cubin(instance, image), *lock), "");
  }
  // A flip may go unnoticed (blanks of JSON) where nothing of the kernel is another.
  void expect_miss_or_the_same(std::size_t at) const {
    std::string damage;
    const auto found = cache.lookup(key, id, &damage);
    EXPECT_NE(found.has_value(), !damage.empty()) << at;
    if (!found) return;
    const Cubin whole = fake_cubin(instance, image);
    EXPECT_EQ(to_json(make_record(instance, *found)).dump(), to_json(make_record(instance, whole)).dump()) << at;
  }
};

TEST_F(DamagedEntry, EveryFlippedByteOfTheRecordIsAMissOrHarmless) {
  for (std::size_t at = 0; at < meta.size(); ++at) {
    write_bytes(entry + "/meta.json", flipped(meta, at));
    expect_miss_or_the_same(at);
  }
  for (std::size_t size = 0; size + 1 < meta.size(); ++size) {
    write_bytes(entry + "/meta.json", meta.substr(0, size));
    EXPECT_FALSE(cache.lookup(key, id, nullptr).has_value()) << size;
  }
}

TEST_F(DamagedEntry, FlippedAndMissingBytesOfTheImageAreMisses) {
  for (std::size_t at = 0; at < image.size(); at += 37) {
    write_bytes(entry + "/kernel.cubin", flipped(image, at));
    EXPECT_FALSE(cache.lookup(key, id, nullptr).has_value()) << at;
    write_bytes(entry + "/kernel.cubin", image.substr(0, at));
    EXPECT_FALSE(cache.lookup(key, id, nullptr).has_value()) << at;
  }
  write_bytes(entry + "/kernel.cubin", image + "c");
  EXPECT_FALSE(cache.lookup(key, id, nullptr).has_value());
}

TEST_F(DamagedEntry, ForeignThingsInPlaceOfFilesAreReplaced) {
  const std::vector<std::pair<std::string, std::function<void(const std::string&)>>> things = {
      {"folder", [](const std::string& path) { fs::create_directories(path + "/inside"); }},
      {"named pipe", [](const std::string& path) { ASSERT_EQ(mkfifo(path.c_str(), 0600), 0); }},
      {"link to nothing", [](const std::string& path) { fs::create_symlink("/nowhere", path); }},
      {"device", [](const std::string& path) { fs::create_symlink("/dev/zero", path); }},
      {"empty file", [](const std::string& path) { write_bytes(path, ""); }},
      {"text", [](const std::string& path) { write_bytes(path, "not ours\n"); }},
  };
  for (const auto& [what, put] : things) {
    for (const std::string& path : {entry, entry + "/meta.json", entry + "/kernel.cubin"}) {
      fs::remove_all(path);
      put(path);
      EXPECT_FALSE(cache.lookup(key, id, nullptr).has_value()) << what << " at " << path;
      store();
      EXPECT_TRUE(cache.lookup(key, id, nullptr).has_value()) << what << " at " << path;
    }
  }
}

TEST_F(UnderFire, DamagedBundleIsRefusedWithItsName) {
  const std::string path = folder / "kernels.zip", image(5000, 'c');
  ASSERT_TRUE(write_bundle(path, {{instance, std::make_shared<Cubin>(fake_cubin(instance, image))}}));
  const std::string whole = base::read_file(path, 1 << 20);
  const std::size_t manifest = whole.find('{'), manifest_end = whole.find("PK\3\4", manifest);
  ASSERT_NE(manifest_end, std::string::npos);
  for (std::size_t at = manifest; at < manifest_end; ++at) {
    write_bytes(path, flipped(whole, at));
    expect_error(ErrorKind::kIo, {"damaged", path}, [&] { Bundle bundle(path); });
  }
  const std::size_t begin = whole.find("cccccccc");
  for (std::size_t at = begin; at < begin + image.size(); at += 37) {
    write_bytes(path, flipped(whole, at));
    expect_error(ErrorKind::kIo, {"damaged", path}, [&] { Bundle(path).get(id); });
  }
  for (const std::string& foreign : {std::string(), std::string("text\n"), std::string(100'000, 'P')}) {
    write_bytes(path, foreign);
    expect_error(ErrorKind::kIo, {"damaged", path}, [&] { Bundle bundle(path); });
  }
}

}  // namespace
}  // namespace moesaic::module
