// SPDX-License-Identifier: Apache-2.0
// Installed packages: where they are looked for, what a store takes from them, and what it says of those it refuses.
#include "module/packages.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/fs.h"
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
using testing::image_of;
using testing::LogLines;
using testing::ScopedEnv;
using testing::small_instance;
using testing::TemporaryFolder;

TEST(PackageName, SaysTheArchitecture) {
  EXPECT_EQ(package_of_file("sm90.zip"), "sm90");
  EXPECT_EQ(package_of_file("moesaic-kernels-sm121.zip"), "sm121");
  EXPECT_EQ(package_of_file("moesaic-kernels-sm90-0.1.0.zip"), "sm90");
  EXPECT_EQ(package_of_file("ptx.zip"), "ptx");
  EXPECT_EQ(package_of_file("moesaic-kernels-ptx-0.1.0.zip"), "ptx");
  for (const char* other : {"sm91.zip", "sm90", "sm90.zip.tmp.1.2", "sm90-old.zip", "kernels.zip", "sm.zip", ".zip", "",
                            "moesaic-kernels-sm90x.zip", "ptx80.zip", "ptx-1.zip"}) {
    EXPECT_EQ(package_of_file(other), "") << other;
  }
}

// Folders of packages for a library or executable at `file`, below a folder.
struct PackageFolders : ::testing::Test {
  TemporaryFolder folder;

  void make(const std::string& path) const { fs::create_directories(folder / path); }
  std::vector<std::string> folders_of(const std::string& file) const {
    make(base::folder_of(file));
    if (!fs::exists(folder / file)) std::ofstream(folder / file) << "code";
    std::vector<std::string> found;
    for (const std::string& path : package_folders_of(folder / file)) {
      found.push_back(fs::path(path).lexically_relative(base::real_path(folder.path())).string());
    }
    return found;
  }
};

TEST_F(PackageFolders, ShareOfTheInstalledPrefix) {
  make("usr/share/moesaic/kernels");
  const std::vector<std::string> wanted = {"usr/share/moesaic/kernels"};
  for (const char* file : {"usr/bin/moesaic", "usr/lib/libmoesaic.so.1", "usr/lib64/libmoesaic.so.1",
                           "usr/lib/x86_64-linux-gnu/libmoesaic.so.1"}) {
    EXPECT_EQ(folders_of(file), wanted) << file;
  }
}

TEST_F(PackageFolders, BesideThePythonPackageAndInItsEnvironment) {
  make("venv/lib/python3.11/site-packages/moesaic_kernels_sm90");
  make("venv/lib/python3.11/site-packages/moesaic_kernels_sm80");
  make("venv/lib/python3.11/site-packages/other");
  const std::string site = "venv/lib/python3.11/site-packages/";
  const std::vector<std::string> wanted = {site + "moesaic_kernels_sm80", site + "moesaic_kernels_sm90"};
  EXPECT_EQ(folders_of(site + "moesaic/libmoesaic.so"), wanted);
  EXPECT_EQ(folders_of("venv/bin/moesaic"), wanted);
}

TEST_F(PackageFolders, NothingBesideAProgramThatIsNotInstalled) {
  // In a folder that everybody writes to, these could be anybody's.
  make("share/moesaic/kernels");
  make("moesaic_kernels_sm90");
  EXPECT_TRUE(folders_of("build/moesaic").empty());
  EXPECT_TRUE(folders_of("moesaic").empty());
}

TEST_F(PackageFolders, ALinkedLibraryHasTheNeighboursOfBothPlaces) {
  make("store/lib");
  make("store/share/moesaic/kernels");
  make("site/moesaic");
  make("site/moesaic_kernels_sm90");
  std::ofstream(folder / "store/lib/libmoesaic.so") << "code";
  fs::create_symlink(folder / "store/lib/libmoesaic.so", folder / "site/moesaic/libmoesaic.so");
  const std::vector<std::string> wanted = {"site/moesaic_kernels_sm90", "store/share/moesaic/kernels"};
  EXPECT_EQ(folders_of("site/moesaic/libmoesaic.so"), wanted);
}

// A store that has packages in a folder, an empty cache and no compiler.
struct InstalledPackage : ::testing::Test {
  TemporaryFolder folder;
  KernelInstance instance = small_instance("sm_80");
  const ScopedEnv on{"MOESAIC_PACKAGES", nullptr};

  InstalledPackage() { set_package_folders_for_test({{folder.path()}}); }
  ~InstalledPackage() override { set_package_folders_for_test(std::nullopt); }

  std::string install(const std::string& name = "sm80.zip", const std::string& image = "image") const {
    EXPECT_TRUE(write_bundle(folder / name, {{instance, std::make_shared<Cubin>(fake_cubin(instance, image))}}));
    return folder / name;
  }
  ModuleOptions nothing_else() const {
    ModuleOptions options;
    options.cache_dir = folder / "cache";
    options.jit = false;
    options.nvrtc = "/nowhere";
    return options;
  }
  /// Replaces bytes of a stored file of the same length, its checksum left as it was.
  static void patch(const std::string& path, const std::string& from, const std::string& to) {
    std::string bytes = base::read_file(path, 1 << 20);
    for (std::size_t at = bytes.find(from); at != std::string::npos; at = bytes.find(from, at)) {
      bytes.replace(at, from.size(), to);
    }
    std::ofstream(path, std::ios::binary) << bytes;
  }
};

TEST_F(InstalledPackage, ServesWithoutACompiler) {
  install();
  const auto cubin = Store(nothing_else()).get(instance);
  EXPECT_EQ(cubin->origin, Origin::kBundle);
  EXPECT_EQ(image_of(*cubin), "image");
}

TEST_F(InstalledPackage, ComesAfterNamedBundlesAndInOrder) {
  install("sm80.zip", "second");
  install("moesaic-kernels-sm80-0.1.0.zip", "first");
  EXPECT_EQ(image_of(*Store(nothing_else()).get(instance)), "first");
  const TemporaryFolder elsewhere;
  ModuleOptions options = nothing_else();
  options.bundles = {elsewhere / "named.zip"};
  ASSERT_TRUE(write_bundle(options.bundles[0], {{instance, std::make_shared<Cubin>(fake_cubin(instance, "named"))}}));
  EXPECT_EQ(image_of(*Store(options).get(instance)), "named");
}

TEST_F(InstalledPackage, OthersAreNotOpened) {
  install();
  std::ofstream(folder / "sm90.zip") << "damaged";
  std::ofstream(folder / "sm80.zip.tmp.1.0") << "half";
  const LogLines log;
  EXPECT_EQ(image_of(*Store(nothing_else()).get(instance)), "image");
  EXPECT_TRUE(log.lines.empty()) << log.lines[0];
}

TEST_F(InstalledPackage, OfAFamilyServesAllItsMembers) {
  instance.target.name = "sm_100f";
  install("sm103.zip");
  EXPECT_EQ(image_of(*Store(nothing_else()).get(instance)), "image");
}

TEST_F(InstalledPackage, OfPtxServesGpusThatTheTableDoesNotList) {
  install("sm80.zip", "machine code");
  instance.target = portable_ptx_target();
  expect_error(ErrorKind::kUnsupported, {"no package moesaic-kernels-ptx is installed", "--ptx"},
               [&] { Store(nothing_else()).get(instance); });
  const std::string path = install("ptx.zip", "text");
  EXPECT_EQ(image_of(*Store(nothing_else()).get(instance)), "text");
  const PackageState state = inspect_package({path, "ptx"});
  EXPECT_EQ(state.why_not, "");
  EXPECT_EQ(state.wanted, plan_set(whole_package("ptx")).size());
  EXPECT_GT(state.wanted, state.kernels);
  // PTX of one architecture alone is made for tests, and in no package.
  instance.target.name = "compute_90a";
  expect_error(ErrorKind::kUnsupported, {"compute_90a", "no package"}, [&] { Store(nothing_else()).get(instance); });
}

TEST_F(InstalledPackage, SwitchTurnsThemOff) {
  install();
  const ScopedEnv off("MOESAIC_PACKAGES", "off");
  expect_error(ErrorKind::kUnsupported, {"MOESAIC_PACKAGES"}, [&] { Store(nothing_else()).get(instance); });
  EXPECT_TRUE(package_folders().empty());
  const ScopedEnv wrong("MOESAIC_PACKAGES", "maybe");
  expect_error(ErrorKind::kInvalidArgument, {"MOESAIC_PACKAGES", "maybe"}, [&] { Store store(nothing_else()); });
}

TEST_F(InstalledPackage, AbsenceIsNamed) {
  expect_error(ErrorKind::kUnsupported, {"no package moesaic-kernels-sm80 is installed", "moesaic compile --arch 80"},
               [&] { Store(nothing_else()).get(instance); });
}

TEST_F(InstalledPackage, DamageIsRefusedWithTheReasonAndOneWarning) {
  const std::string path = install();
  patch(path, "image", "imagE");
  const LogLines log;
  Store store(nothing_else());
  for (int i = 0; i < 3; ++i) {
    expect_error(ErrorKind::kUnsupported, {path, "damaged", "not used"}, [&] { store.get(instance); });
  }
  expect_error(ErrorKind::kUnsupported, {path, "damaged"}, [&] { Store(nothing_else()).get(instance); });
  EXPECT_TRUE(log.one_with({"kernel package not used", path, "damaged"}));
  EXPECT_NE(inspect_package({path, "sm80"}).why_not.find("damaged"), std::string::npos);
}

TEST_F(InstalledPackage, NoZipFileIsRefused) {
  const std::string path = folder / "sm80.zip";
  std::ofstream(path) << "no zip file";
  const LogLines log;
  expect_error(ErrorKind::kUnsupported, {path, "not a zip file"}, [&] { Store(nothing_else()).get(instance); });
  EXPECT_TRUE(log.one_with({path, "not a zip file"}));
}

TEST_F(InstalledPackage, WhatOthersMayWriteIsNotTrusted) {
  const std::string path = install();
  fs::permissions(path, static_cast<fs::perms>(0666));
  const LogLines log;
  expect_error(ErrorKind::kUnsupported, {path, "not trusted"}, [&] { Store(nothing_else()).get(instance); });
  EXPECT_TRUE(log.one_with({path, "not trusted"}));
  EXPECT_NE(inspect_package({path, "sm80"}).why_not.find("not trusted"), std::string::npos);
}

TEST_F(InstalledPackage, NorIsAFileInAFolderThatOthersMayWrite) {
  const std::string path = install();
  fs::permissions(folder.path(), static_cast<fs::perms>(0777));
  const LogLines log;
  expect_error(ErrorKind::kUnsupported,
               {path, "not trusted", "everybody may write to " + folder.path(), "chmod -R go-w"},
               [&] { Store(nothing_else()).get(instance); });
  EXPECT_TRUE(log.one_with({path, "not trusted", "everybody"}));
  EXPECT_NE(inspect_package({path, "sm80"}).why_not.find("not trusted"), std::string::npos);
  fs::permissions(folder.path(), static_cast<fs::perms>(0755));
  EXPECT_EQ(image_of(*Store(nothing_else()).get(instance)), "image");
}

TEST_F(InstalledPackage, MustBeSignedWhereAKeyIsGiven) {
  const std::string path = install();
  const TemporaryFolder keys;
  const testing::KeyPair pair(keys / "key");
  const ScopedEnv key("MOESAIC_BUNDLE_KEY", pair.public_file.c_str());
  const LogLines log;
  expect_error(ErrorKind::kUnsupported, {path, "is not signed"}, [&] { Store(nothing_else()).get(instance); });
  EXPECT_NE(inspect_package({path, "sm80"}).why_not.find("is not signed"), std::string::npos);
  Bundle(path).sign(pair.private_file);
  EXPECT_EQ(image_of(*Store(nothing_else()).get(instance)), "image");
  EXPECT_EQ(inspect_package({path, "sm80"}).why_not, "");
}

TEST_F(InstalledPackage, AnotherKernelTextIsTheReason) {
  const std::string path = install();
  const std::string source = instance.row->source;
  override_source_for_test(source, "// another text\n");
  const LogLines log;
  Store store(nothing_else());
  expect_error(ErrorKind::kUnsupported, {path, "another kernel text"}, [&] { store.get(instance); });
  expect_error(ErrorKind::kUnsupported, {path, "another kernel text"}, [&] { store.get(instance); });
  const std::string why = inspect_package({path, "sm80"}).why_not;
  override_source_for_test(source, "");
  EXPECT_TRUE(log.one_with({path, "another kernel text"}));
  EXPECT_NE(why.find("another kernel text"), std::string::npos) << why;
  EXPECT_EQ(inspect_package({path, "sm80"}).why_not, "");
}

TEST_F(InstalledPackage, AFileOfAnotherNameIsNotOpenedAndSaidSo) {
  install("kernels.zip");
  const auto files = package_files({folder.path()});
  ASSERT_EQ(files.size(), 1u);
  EXPECT_NE(inspect_package(files[0]).why_not.find("not named as a package"), std::string::npos);
  expect_error(ErrorKind::kUnsupported, {"no package"}, [&] { Store(nothing_else()).get(instance); });
}

}  // namespace
}  // namespace moesaic::module
