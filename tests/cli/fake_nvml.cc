// SPDX-License-Identifier: Apache-2.0
// An NVML with one device, 0000:3b:00.0: energy rises by 25 J at every question, the SM clock alternates between 1500
// and 1700 MHz. MOESAIC_FAKE_NVML=no_energy: a GPU that does not tell its energy.
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kNotSupported = 3, kNotFound = 6;
int device = 0;
unsigned long long millijoules = 1000;
unsigned asked = 0;

}  // namespace

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** handle) {
  *handle = &device;
  return std::strcmp(bus, "0000:3b:00.0") == 0 ? 0 : kNotFound;
}
int nvmlDeviceGetTotalEnergyConsumption(void* handle, unsigned long long* energy) {
  if (handle != &device || std::getenv("MOESAIC_FAKE_NVML") != nullptr) return kNotSupported;
  *energy = millijoules += 25000;
  return 0;
}
int nvmlDeviceGetClockInfo(void* handle, int clock, unsigned* mhz) {
  if (handle != &device) return kNotSupported;
  *mhz = clock == 1 ? (asked++ % 2 == 0 ? 1500 : 1700) : 3200;
  return clock == 1 || clock == 2 ? 0 : kNotSupported;
}

}  // extern "C"
