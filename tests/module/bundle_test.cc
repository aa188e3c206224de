// SPDX-License-Identifier: Apache-2.0
// Bundles, and a store that has nothing else.
#include "module/bundle.h"

#include <gtest/gtest.h>
#include <minizip/zip.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "module/store.h"
#include "tests/module/fake_cubin.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::fake_cubin;
using testing::image_of;
using testing::ScopedEnv;
using testing::small_instance;
using testing::TemporaryFolder;

struct BundleTest : ::testing::Test {
  TemporaryFolder folder;
  std::string path = folder / "kernels.zip";
  KernelInstance cubin_instance = small_instance("sm_80"), ptx_instance = small_instance("compute_80");

  std::vector<BundleItem> items() const {
    return {{cubin_instance, std::make_shared<Cubin>(fake_cubin(cubin_instance, std::string(5000, 'c')))},
            {ptx_instance, std::make_shared<Cubin>(fake_cubin(ptx_instance, "ptx text"))}};
  }
  void write() { ASSERT_TRUE(write_bundle(path, items())); }

  ModuleOptions only_bundle() const {
    ModuleOptions options;
    options.bundles = {path};
    options.cache_dir = folder / "cache";
    options.jit = false;
    options.nvrtc = "/nowhere";
    return options;
  }

  // A zip file with these contents.
  void write_zip(const std::vector<std::pair<std::string, std::string>>& files) const {
    zipFile zip = zipOpen(path.c_str(), APPEND_STATUS_CREATE);
    for (const auto& [name, bytes] : files) {
      zipOpenNewFileInZip(zip, name.c_str(), nullptr, nullptr, 0, nullptr, 0, nullptr, Z_DEFLATED, 9);
      zipWriteInFileInZip(zip, bytes.data(), static_cast<unsigned>(bytes.size()));
      zipCloseFileInZip(zip);
    }
    zipClose(zip, nullptr);
  }

  nlohmann::json manifest() const {
    nlohmann::json json = {{"format", 1}, {"moesaic", library_version()}, {"module_abi", abi::kModuleAbi}};
    json["entries"] = {to_json(make_record(cubin_instance, fake_cubin(cubin_instance, "image")))};
    return json;
  }
};

TEST_F(BundleTest, GivesBackWhatWasWritten) {
  write();
  const Bundle bundle(path);
  EXPECT_EQ(bundle.records().size(), 2u);
  EXPECT_EQ(bundle.refusal(), "");
  EXPECT_TRUE(bundle.damage().empty());
  const auto cubin = bundle.get(identity(cubin_instance));
  ASSERT_TRUE(cubin.has_value());
  EXPECT_EQ(image_of(*cubin), std::string(5000, 'c'));
  EXPECT_EQ(cubin->origin, Origin::kBundle);
  EXPECT_EQ(cubin->cuda_version, 13000);
  EXPECT_EQ(image_of(*bundle.get(identity(ptx_instance))), "ptx text");
  EXPECT_FALSE(bundle.get(std::string(64, '0')).has_value());
}

TEST_F(BundleTest, EqualContentGivesEqualBytesAndNoLeftovers) {
  write();
  const std::string first = base::read_file(path, 1 << 20);
  write();
  EXPECT_EQ(base::read_file(path, 1 << 20), first);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

TEST_F(BundleTest, StoppedWriteLeavesTheOldFile) {
  std::ofstream(path) << "old";
  EXPECT_FALSE(write_bundle(path, items(), [] { return true; }));
  EXPECT_EQ(base::read_file(path, 100), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
  expect_error(ErrorKind::kIo, {"missing"}, [&] { write_bundle(folder / "missing/k.zip", items()); });
}

TEST_F(BundleTest, EveryCutIsRefusedOrSound) {
  write();
  const std::string whole = base::read_file(path, 1 << 20);
  for (std::size_t size = 0; size < whole.size(); size += 61) {
    std::ofstream(path, std::ios::binary) << whole.substr(0, size);
    EXPECT_THROW(Bundle bundle(path), Error) << size;
  }
}

TEST_F(BundleTest, EveryFlippedByteIsNoticedOrHarmless) {
  write();
  const std::string whole = base::read_file(path, 1 << 20);
  const std::string id = identity(cubin_instance);
  for (std::size_t at = 0; at < whole.size(); at += 13) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x55);
    std::ofstream(path, std::ios::binary) << bytes;
    try {
      const Bundle bundle(path);
      const auto cubin = bundle.get(id);
      if (cubin) {
        EXPECT_EQ(image_of(*cubin), std::string(5000, 'c')) << at;
      }
    } catch (const Error&) {
      // refused: as good
    }
  }
}

TEST_F(BundleTest, DamagedKernelIsNamed) {
  write_zip({{"manifest.json", manifest().dump()}, {identity(cubin_instance) + ".cubin", "imagE"}, {"extra", "x"}});
  const Bundle bundle(path);
  expect_error(ErrorKind::kIo, {"damaged", "SHA-256"}, [&] { bundle.get(identity(cubin_instance)); });
  EXPECT_EQ(bundle.damage().size(), 2u);
}

TEST_F(BundleTest, SizeLimitsHold) {
  write_zip({{"manifest.json", manifest().dump()}, {identity(cubin_instance) + ".cubin", std::string(10 << 20, '\0')}});
  expect_error(ErrorKind::kIo, {"10485760 bytes", "at most 5"}, [&] { Bundle(path).get(identity(cubin_instance)); });
}

TEST_F(BundleTest, WrongManifestsAreRefused) {
  write_zip({{"other", "x"}});
  expect_error(ErrorKind::kIo, {"manifest.json is missing"}, [&] { Bundle bundle(path); });
  write_zip({{"manifest.json", "{"}});
  expect_error(ErrorKind::kIo, {"not JSON"}, [&] { Bundle bundle(path); });
  nlohmann::json json = manifest();
  json["format"] = 2;
  write_zip({{"manifest.json", json.dump()}});
  expect_error(ErrorKind::kUnsupported, {"format 2"}, [&] { Bundle bundle(path); });
  json = manifest();
  json["entries"].push_back(json["entries"][0]);
  write_zip({{"manifest.json", json.dump()}});
  expect_error(ErrorKind::kIo, {"twice"}, [&] { Bundle bundle(path); });
  json = manifest();
  json["entries"][0].erase("sha256");
  write_zip({{"manifest.json", json.dump()}});
  expect_error(ErrorKind::kIo, {"sha256"}, [&] { Bundle bundle(path); });
  expect_error(ErrorKind::kIo, {"no such file"}, [&] { Bundle bundle(folder / "none.zip"); });
}

TEST_F(BundleTest, AnotherVersionOrAbiIsRefusedByTheStore) {
  nlohmann::json json = manifest();
  json["moesaic"] = "0.0.1";
  write_zip({{"manifest.json", json.dump()}, {identity(cubin_instance) + ".cubin", "image"}});
  expect_error(ErrorKind::kUnsupported, {"moesaic 0.0.1", library_version(), path},
               [&] { Store store(only_bundle()); });
  json = manifest();
  json["module_abi"] = abi::kModuleAbi + 1;
  write_zip({{"manifest.json", json.dump()}, {identity(cubin_instance) + ".cubin", "image"}});
  expect_error(ErrorKind::kUnsupported, {"module ABI"}, [&] { Store store(only_bundle()); });
}

TEST_F(BundleTest, StoreServesItWithoutACompiler) {
  write();
  Store store(only_bundle());
  const auto cubin = store.get(cubin_instance);
  EXPECT_EQ(cubin->origin, Origin::kBundle);
  EXPECT_EQ(store.get(cubin_instance), cubin);
  EXPECT_EQ(store.get_all({ptx_instance, cubin_instance})[1], cubin);
}

TEST_F(BundleTest, StoreReadsTheVariable) {
  write();
  ModuleOptions options = only_bundle();
  options.bundles.clear();
  const ScopedEnv bundle("MOESAIC_BUNDLE", (":" + path + ":").c_str());
  EXPECT_EQ(Store(options).get(cubin_instance)->origin, Origin::kBundle);
}

TEST_F(BundleTest, MissWithJitOffNamesKernelArchitectureAndCommand) {
  write();
  Store store(only_bundle());
  expect_error(ErrorKind::kUnsupported,
               {"moesaic_warp_prepare_vector_w8", "sm_90", "does not have it", "MOESAIC_JIT",
                "moesaic compile --arch 90 --recipe bf16 --op prepare"},
               [&] { store.get(small_instance("sm_90")); });
  ModuleOptions options = only_bundle();
  options.jit.reset();
  const ScopedEnv off("MOESAIC_JIT", "off");
  expect_error(ErrorKind::kUnsupported, {"MOESAIC_JIT"}, [&] { Store(options).get(small_instance("sm_90")); });
}

TEST_F(BundleTest, AnotherKernelTextIsTheReason) {
  write();
  const std::string source = cubin_instance.row->source;
  std::string text;
  for (const SourceText& part : source_closure(source)) {
    if (part.path == source) text = part.text;
  }
  override_source_for_test(source, text + "// changed\n");
  expect_error(ErrorKind::kUnsupported, {"another kernel text", path},
               [&] { Store(only_bundle()).get(cubin_instance); });
  override_source_for_test(source, "");
  EXPECT_EQ(Store(only_bundle()).get(cubin_instance)->origin, Origin::kBundle);
}

TEST_F(BundleTest, MissWithoutNvrtcNamesThePlacesSearched) {
  write();
  ModuleOptions options = only_bundle();
  options.jit = true;
  expect_error(ErrorKind::kUnsupported, {"no NVRTC", "/nowhere", "moesaic compile --arch 90"},
               [&] { Store(options).get(small_instance("sm_90")); });
}

}  // namespace
}  // namespace moesaic::module
