// SPDX-License-Identifier: Apache-2.0
// Bundles and caches that others could have written, and signatures of bundles.
#include <gtest/gtest.h>
#include <minizip/unzip.h>
#include <minizip/zip.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "base/hash.h"
#include "module/bundle.h"
#include "module/cache.h"
#include "module/store.h"
#include "tests/module/fake_cubin.h"
#include "tests/module/log_lines.h"
#include "tests/support/expect_error.h"
#include "tests/support/key_pair.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::fake_cubin;
using testing::KeyPair;
using testing::LogLines;
using testing::ScopedEnv;
using testing::small_instance;
using testing::TemporaryFolder;

constexpr uid_t kOther = 65533;

struct Trusted : ::testing::Test {
  TemporaryFolder folder;
  std::string path = folder / "kernels.zip";
  KernelInstance instance = small_instance(), second = small_instance("sm_90");
  std::string id = identity(instance);

  void write() const {
    ASSERT_TRUE(write_bundle(path, {{instance, std::make_shared<Cubin>(fake_cubin(instance, "first image"))},
                                    {second, std::make_shared<Cubin>(fake_cubin(second, "second image"))}}));
  }
  ModuleOptions only_bundle() const {
    ModuleOptions options = testing::compiling_options(folder / "cache", "/nowhere");
    options.bundles = {path};
    options.jit = false;
    return options;
  }
  void expect_served() const { EXPECT_EQ(Store(only_bundle()).get(instance)->origin, Origin::kBundle); }
  void expect_refused(const std::vector<std::string>& words) const {
    expect_error(ErrorKind::kUnsupported, words, [&] { Store store(only_bundle()); });
  }
};

// ---- bundles of others ----------------------------------------------------------------------------------------------

TEST_F(Trusted, BundleThatOthersMayWriteIsRefusedUntilItsModeIsMended) {
  const mode_t old = umask(0);
  write();
  umask(old);
  expect_served();
  ASSERT_EQ(chmod(path.c_str(), 0666), 0);
  expect_refused({path, "not trusted", "everybody may write", "chmod go-w"});
  EXPECT_EQ(Bundle(path).records().size(), 2u) << "looking is allowed";
  EXPECT_TRUE(Bundle(path).damage().empty());
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  expect_served();
}

TEST_F(Trusted, BundleOfAnotherUserIsRefusedAlsoBehindALink) {
  write();
  const std::string real = folder / "real.zip";
  fs::rename(path, real);
  fs::create_symlink(real, path);
  expect_served();
  if (chown(real.c_str(), kOther, static_cast<gid_t>(-1)) != 0) GTEST_SKIP() << "this user gives no file away";
  expect_refused({path, "belongs to user 65533", "chown"});
  // A process of root believes the owner of the home folder that it was given.
  ASSERT_EQ(chown(folder.path().c_str(), kOther, static_cast<gid_t>(-1)), 0);
  const ScopedEnv home("HOME", folder.path().c_str());
  expect_served();
}

TEST_F(Trusted, BundleInAFolderThatOthersMayWriteIsRefused) {
  const std::string open = folder / "open";
  fs::create_directory(open);
  write();
  fs::rename(path, open + "/k.zip");
  fs::create_symlink(open + "/k.zip", path);
  for (const std::string& name : {open + "/k.zip", path}) {
    ASSERT_EQ(chmod(open.c_str(), 0777), 0);
    path = name;
    expect_refused({path, "not trusted", "everybody may write to", "/open", "chmod -R go-w"});
    EXPECT_EQ(Bundle(path).records().size(), 2u) << "looking is allowed";
    ASSERT_EQ(chmod(open.c_str(), 01777), 0);
    expect_refused({path, "not trusted", "everybody may write to", "/open", "use a folder of your own"});
    ASSERT_EQ(chmod(open.c_str(), 0755), 0);
    expect_served();
  }
}

// ---- caches of others -----------------------------------------------------------------------------------------------

TEST_F(Trusted, CacheThatOthersMayWriteIsNeitherReadNorWritten) {
  const ModuleOptions options = testing::compiling_options(folder / "cache", MOESAIC_FAKE_NVRTC);
  EXPECT_EQ(Store(options).get(instance)->origin, Origin::kCompiled);
  EXPECT_EQ(Store(options).get(instance)->origin, Origin::kCache);
  ASSERT_EQ(chmod((folder / "cache").c_str(), 0777), 0);
  const LogLines log;
  EXPECT_EQ(Store(options).get(instance)->origin, Origin::kCompiled);
  EXPECT_TRUE(log.one_with({folder / "cache", "not trusted", "everybody", "chmod -R go-w", "memory only"}));
  EXPECT_EQ(Store(options).get(second)->origin, Origin::kCompiled);
  EXPECT_EQ(Cache(folder / "cache").list().size(), 1u);
  ModuleOptions no_jit = options;
  no_jit.jit = false;
  expect_error(ErrorKind::kUnsupported, {"not cached", "cache is not used", "chmod"},
               [&] { Store(no_jit).get(instance); });
  ASSERT_EQ(chmod((folder / "cache").c_str(), 0755), 0);
  EXPECT_EQ(Store(options).get(instance)->origin, Origin::kCache);
}

TEST_F(Trusted, EntryThatOthersMayWriteIsMadeAgain) {
  const ModuleOptions options = testing::compiling_options(folder / "cache", MOESAIC_FAKE_NVRTC);
  Store(options).get(instance);
  const std::string key = Cache(folder / "cache").list().at(0).key;
  for (const char* name : {"kernel.cubin", "meta.json"}) {
    const std::string file = folder / ("cache/" + key.substr(0, 2) + "/" + key + "/" + name);
    ASSERT_EQ(chmod(file.c_str(), 0666), 0);
    EXPECT_NE(Cache(folder / "cache").list().at(0).damage.find("everybody"), std::string::npos);
    const LogLines log;
    EXPECT_EQ(Store(options).get(instance)->origin, Origin::kCompiled);
    EXPECT_TRUE(log.one_with({"made again", name, "everybody"}));
    EXPECT_EQ(Store(options).get(instance)->origin, Origin::kCache);
  }
}

TEST_F(Trusted, NewCacheIsTrustedWhateverTheUmask) {
  const mode_t old = umask(0);
  const ModuleOptions options = testing::compiling_options(folder / "deep/cache", MOESAIC_FAKE_NVRTC);
  EXPECT_EQ(Store(options).get(instance)->origin, Origin::kCompiled);
  umask(old);
  EXPECT_EQ(Store(options).get(instance)->origin, Origin::kCache);
}

// ---- signatures -----------------------------------------------------------------------------------------------------

struct SignedBundle : Trusted {
  KeyPair pair{folder / "key"}, other{folder / "other"};
  ScopedEnv wanted{"MOESAIC_BUNDLE_KEY", pair.public_file.c_str()};

  void SetUp() override {
    write();
    Bundle(path).sign(pair.private_file);
  }
  // Writes the bundle again with `change` made to its files.
  void alter(const std::function<void(std::map<std::string, std::string>&)>& change) const {
    std::map<std::string, std::string> files;
    const unzFile old = unzOpen(path.c_str());
    for (int status = unzGoToFirstFile(old); status == UNZ_OK; status = unzGoToNextFile(old)) {
      char name[256] = {};
      unz_file_info info{};
      unzGetCurrentFileInfo(old, &info, name, sizeof(name) - 1, nullptr, 0, nullptr, 0);
      std::string bytes(info.uncompressed_size, '\0');
      unzOpenCurrentFile(old);
      unzReadCurrentFile(old, bytes.data(), static_cast<unsigned>(bytes.size()));
      unzCloseCurrentFile(old);
      files[name] = bytes;
    }
    unzClose(old);
    change(files);
    const zipFile zip = zipOpen(path.c_str(), APPEND_STATUS_CREATE);
    for (const auto& [name, bytes] : files) {
      zipOpenNewFileInZip(zip, name.c_str(), nullptr, nullptr, 0, nullptr, 0, nullptr, 0, 0);
      zipWriteInFileInZip(zip, bytes.data(), static_cast<unsigned>(bytes.size()));
      zipCloseFileInZip(zip);
    }
    zipClose(zip, nullptr);
  }
};

TEST_F(SignedBundle, ServesAndIsWhole) {
  expect_served();
  const Bundle bundle(path);
  EXPECT_TRUE(bundle.damage().empty());
  EXPECT_EQ(bundle.distrust(pair.public_file), "");
  ASSERT_TRUE(bundle.signature().has_value());
  EXPECT_EQ(bundle.signature()->public_key.size(), 64u);
  const std::string once = base::read_file(path, 1 << 20);
  bundle.sign(pair.private_file);
  EXPECT_EQ(base::read_file(path, 1 << 20), once) << "signing twice changes nothing";
  alter([](auto&) {});
  expect_served();
}

TEST_F(SignedBundle, WithoutAKeyNobodyAsks) {
  const ScopedEnv unset("MOESAIC_BUNDLE_KEY", nullptr);
  expect_served();
  write();
  expect_served();
}

TEST_F(SignedBundle, UnsignedIsRefused) {
  write();
  expect_refused({path, "is not signed", "MOESAIC_BUNDLE_KEY", pair.public_file, "moesaic bundle sign --key"});
}

TEST_F(SignedBundle, AnotherKeyIsRefused) {
  Bundle(path).sign(other.private_file);
  expect_refused({path, "is signed by", Bundle(path).signature()->public_key, pair.public_file});
  // The wanted key's name on the other's signature.
  const std::string name = base::ed25519_public_key(pair.public_file);
  alter([&](auto& files) {
    auto json = nlohmann::json::parse(files["manifest.sig"]);
    json["key"] = name;
    files["manifest.sig"] = json.dump();
  });
  expect_refused({path, "does not fit"});
}

TEST_F(SignedBundle, AlteredManifestIsRefused) {
  alter([&](auto& files) {
    const std::string other_image = "other image";
    auto json = nlohmann::json::parse(files["manifest.json"]);
    for (auto& entry : json["entries"]) {
      if (entry["identity"] != id) continue;
      entry["sha256"] = base::sha256_hex(other_image);
      entry["size"] = other_image.size();
    }
    files["manifest.json"] = json.dump(1);
    files[id + ".cubin"] = other_image;
  });
  EXPECT_TRUE(Bundle(path).damage().empty()) << "whole, but not what was signed";
  expect_refused({path, "does not fit its manifest", "altered"});
  alter([](auto& files) { files["manifest.json"] += " "; });
  expect_refused({"does not fit"});
}

TEST_F(SignedBundle, AlteredKernelIsRefusedWhenAskedFor) {
  alter([&](auto& files) { files[id + ".cubin"][3] ^= 1; });
  Store store(only_bundle());
  expect_error(ErrorKind::kIo, {path, "damaged", "SHA-256"}, [&] { store.get(instance); });
  EXPECT_EQ(store.get(second)->origin, Origin::kBundle);
  expect_error(ErrorKind::kIo, {"damaged"}, [&] { Bundle(path).sign(pair.private_file); });
}

TEST_F(SignedBundle, DamagedSignatureIsRefused) {
  for (const char* text : {"", "{", "[]", "{\"algorithm\": \"ed25519\"}", "{\"algorithm\": \"rsa\"}",
                           "{\"algorithm\": \"ed25519\", \"key\": 1, \"signature\": 2}"}) {
    alter([&](auto& files) { files["manifest.sig"] = text; });
    expect_error(ErrorKind::kIo, {path, "damaged", "manifest.sig"}, [&] { Store store(only_bundle()); });
  }
  alter([](auto& files) { files["manifest.sig"] = std::string(5000, ' '); });
  expect_error(ErrorKind::kIo, {"at most 4096"}, [&] { Store store(only_bundle()); });
}

TEST_F(SignedBundle, KeyFileThatIsNoneOpensNothing) {
  const ScopedEnv missing("MOESAIC_BUNDLE_KEY", (folder / "none.pem").c_str());
  expect_error(ErrorKind::kIo, {"none.pem"}, [&] { Store store(only_bundle()); });
  const ScopedEnv secret("MOESAIC_BUNDLE_KEY", pair.private_file.c_str());
  expect_error(ErrorKind::kInvalidArgument, {pair.private_file, "public key"}, [&] { Store store(only_bundle()); });
}

}  // namespace
}  // namespace moesaic::module
