// SPDX-License-Identifier: Apache-2.0
// Texts that packages carry, part of the executable; generated from LICENSE and cmake/debian.
#pragma once

namespace moesaic::cli {

extern const char kLicenseText[];
extern const char kDebianCopyrightText[];
extern const char kDebianChangelogText[];
extern const char kMaintainer[];      // "name <address>"
extern const long long kReleaseTime;  // seconds since 1970 of the changelog's entry: what files in packages are dated

}  // namespace moesaic::cli
