"""Output of nvidia-smi, in the columns that QUERY of module_utils/host/gpus.py requests.

Each sample names its source:
* documentation: the format is from NVIDIA's documentation (nvidia-smi(1), MIG User Guide) or from public issue threads of owners
  of such a card; the values and UUIDs are made up. Nothing was recorded on a card of our own.
* simulated: the format of the test-bed's driver (tests/testbed/gpus/nvidia-smi), typed in.
"""

from __future__ import annotations

# simulated: the reference host
FAKOLI_DARK = """\
0, GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1, NVIDIA GeForce RTX 5090, 12.0, 32607, 1000, 580.95.05, 00000000:01:00.0, [N/A]
1, GPU-d0f446cf-1771-414c-e116-a39138798a8c, NVIDIA RTX PRO 6000 Blackwell, 12.0, 97887, 4, 580.95.05, 00000000:02:00.0, [N/A]
"""
# documentation: a cloud T4, a card without MIG
T4 = "0, GPU-1d2e3f40-5162-7384-95a6-b7c8d9eafb0c, Tesla T4, 7.5, 15360, 0, 535.183.01, 00000000:00:1E.0, [N/A]\n"
# documentation: H100 and H200 have MIG, off by default
H100 = (
    "0, GPU-6fb1c33b-02f2-4b2d-9d4e-1c0a7b1c8a11, NVIDIA H100 80GB HBM3, 9.0, 81559, 4, 535.104.05, 00000000:04:00.0, Disabled\n"
)
H200 = "0, GPU-9d5a7d5b-52e0-4f2f-8c3e-2f7f35b2a001, NVIDIA H200, 9.0, 143771, 1, 570.86.15, 00000000:19:00.0, Disabled\n"
# documentation: GB10 shares the system's memory and reports none of its own (DGX Spark, known issues)
GB10 = "0, GPU-2dee1e25-b3b5-007e-2b55-79f2d0f2ebe5, NVIDIA GB10, 12.1, [N/A], [N/A], 580.126.09, 0000000F:01:00.0, [N/A]\n"
# documentation: two cards of the same name, which differ only in their UUID
TWO_3090 = """\
0, GPU-aaaaaaaa-0000-1111-2222-333333333333, NVIDIA GeForce RTX 3090, 8.6, 24576, 12, 550.54.14, 00000000:17:00.0, [N/A]
1, GPU-bbbbbbbb-0000-1111-2222-333333333333, NVIDIA GeForce RTX 3090, 8.6, 24576, 23991, 550.54.14, 00000000:65:00.0, [N/A]
"""
# documentation: MIG is on; only root may read the used memory
MIG = """\
0, GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0, NVIDIA A100-SXM4-40GB, 8.0, 40960, \
[Insufficient Permissions], 525.60.13, 00000000:07:00.0, Enabled
1, GPU-5c1a4a77-07b2-4d39-9f6e-3c1f5a1c9e55, NVIDIA A100-SXM4-40GB, 8.0, 40960, 0, 525.60.13, 00000000:0F:00.0, Disabled
"""
# documentation: MIG User Guide, device enumeration
MIG_LIST = """\
GPU 0: A100-SXM4-40GB (UUID: GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 3g.20gb     Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
GPU 1: A100-SXM4-40GB (UUID: GPU-5c1a4a77-07b2-4d39-9f6e-3c1f5a1c9e55)
"""
# documentation: nvidia-smi -q -x of that host, reduced to the fields that are read (sizes from an owner's public table)
MIG_XML = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v11.dtd">
<nvidia_smi_log>
\t<driver_version>525.60.13</driver_version>
\t<gpu id="00000000:07:00.0">
\t\t<mig_mode>
\t\t\t<current_mig>Enabled</current_mig>
\t\t</mig_mode>
\t\t<mig_devices>
\t\t\t<mig_device>
\t\t\t\t<index>1</index>
\t\t\t\t<fb_memory_usage>
\t\t\t\t\t<total>19968 MiB</total>
\t\t\t\t\t<used>9826 MiB</used>
\t\t\t\t</fb_memory_usage>
\t\t\t</mig_device>
\t\t\t<mig_device>
\t\t\t\t<index>0</index>
\t\t\t\t<fb_memory_usage>
\t\t\t\t\t<total>19968 MiB</total>
\t\t\t\t\t<used>13 MiB</used>
\t\t\t\t</fb_memory_usage>
\t\t\t</mig_device>
\t\t</mig_devices>
\t\t<uuid>GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0</uuid>
\t\t<fb_memory_usage>
\t\t\t<total>40960 MiB</total>
\t\t\t<used>N/A</used>
\t\t</fb_memory_usage>
\t</gpu>
\t<gpu id="00000000:0F:00.0">
\t\t<mig_devices>
\t\t\tNone
\t\t</mig_devices>
\t\t<uuid>GPU-5c1a4a77-07b2-4d39-9f6e-3c1f5a1c9e55</uuid>
\t</gpu>
</nvidia_smi_log>
"""
# documentation: the same with a driver before 470, which names MIG devices after their card
MIG_LIST_450 = """\
GPU 0: A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77/1/0)
"""
# documentation: one card of four has MIG devices with four times the usual memory (an owner's listing of an A100 80 GB host)
MIG_LIST_ONE_OF_FOUR = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-10000000-0000-4000-8000-000000000000)
  MIG 1g.20gb     Device  0: (UUID: MIG-10000000-0000-5000-8000-000000000000)
  MIG 1g.20gb     Device  1: (UUID: MIG-10000000-0000-5000-8000-000000000001)
  MIG 1g.20gb     Device  2: (UUID: MIG-10000000-0000-5000-8000-000000000002)
  MIG 1g.20gb     Device  3: (UUID: MIG-10000000-0000-5000-8000-000000000003)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-10000000-0000-4000-8000-000000000001)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-10000000-0000-4000-8000-000000000002)
GPU 3: NVIDIA A100-SXM4-80GB (UUID: GPU-10000000-0000-4000-8000-000000000003)
"""
# documentation: Jetson, whose driver reports neither memory nor bus (an owner's row: the name, and [N/A] elsewhere)
JETSON_ORIN = "0, GPU-20000000-0000-4000-8000-000000000000, Orin (nvgpu), [N/A], [N/A], [N/A], 540.4.0, [N/A], [N/A]\n"
# documentation: the total memory (MiB) that the driver reports for seven kinds of card, listed by a cloud operator
CLOUD_TOTALS = {
    "NVIDIA H100 80GB HBM3": 81559,
    "NVIDIA A100 80GB PCIe": 81920,
    "NVIDIA A100-SXM4-40GB": 40960,
    "NVIDIA A10": 23028,
    "NVIDIA L40S": 46068,
    "NVIDIA L4": 23034,
    "Tesla T4": 15360,
}
# documentation: the message of newer drivers for a lost card
LOST_NEWER = "Unable to determine the device handle for GPU0000:07:00.0: Unknown Error\n"
# documentation: a driver that does not find the CUDA version (a vGPU host)
LOG_NOT_FOUND = "Driver Version                            : 580.105.06\nCUDA Version                              : Not Found\n"
# documentation: a card that fell off the bus, alone and as one row of two
LOST = "Unable to determine the device handle for GPU 0000:0B:00.0: GPU is lost.  Reboot the system to recover this GPU\n"
LOST_ROW = T4 + "1" + ", [GPU is lost]" * 8 + "\n"
# documentation: a driver that was updated while the old kernel module was loaded
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.161\n"
# documentation: the beginning of nvidia-smi -q
LOG_535 = """
==============NVSMI LOG==============

Timestamp                                 : Tue Mar  5 10:12:01 2024
Driver Version                            : 535.104.05
CUDA Version                              : 12.2

Attached GPUs                             : 1
GPU 00000000:04:00.0
    Compute Mode                          : Default
"""
