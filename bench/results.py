#!/usr/bin/python3
"""RESULTS.md from the JSON files of thaw bench: results.py DIRECTORY."""

import json
import os
import sys
import time

BENCHES = ("boot", "clone", "invoke", "burst", "density", "snapshot", "restore", "linux")

# name, what is compared with the aim, the aim in the result's unit
AIMS = [
    ("cold_boot_ready", "cold boot of the built-in guest to agent ready", {"p50": 60000}),
    ("create_pooled", "pooled clone, call to result, running", {"p50": 400, "p99": 2000}),
    ("answer_pooled", "pooled clone to answer (invoke echo)", {"p50": 1000}),
    ("create_fresh", "fresh clone, acknowledged", {"p50": 1800}),
    ("answer_fresh", "fresh clone to answer", {"p50": 2500}),
    ("burst_1000", "1,000 fresh clones by one request, all alive, all answered", {"max": 2500000}),
    ("memory_per_clone", "memory per live answered clone, 1,000 alive", {"p50": 1.6 * 1024}),
    ("create_lazy_128m", "lazy template of a 128 MiB snapshot, call to return", {"p50": 10000}),
    ("create_lazy_4g", "the same of 4 GiB", {"p50": 10000}),
    ("fault_added", "a demand fault, over the read, one at a time", {"p50": 60}),
    ("fault_page", "a page of a window that is touched in order", {"p50": 5}),
    ("faults_left", "demand loads after a recording, of those without", {"max": 2}),
    ("memory_100", "memory of 100 lazy clones over 1.7 MiB each, of one copy", {"max": 110}),
    ("live_pause_128m", "pause of a live snapshot, 128 MiB guest", {"p50": 3000}),
    ("live_pause_1g", "the same, 1 GiB guest of which 64 MiB are mapped", {"p50": 4000}),
    ("live_pause_1g_full", "the same, nearly all of it mapped", {"p50": 20000}),
    ("full_zstd1", "zstd level 1 of a 1 GiB guest, half its pages not zero", {"p50": 1073742}),
    ("restore_checksum_share", "checksums' share of a full raw restore from the disk", {"p50": 3}),
    ("chain_16_vs_1", "a chain of 16 diffs against one, same pages", {"p50": 1.15}),
    ("inspect_8g", "thaw inspect of an 8 GiB guest", {"p50": 100000}),
    ("api_empty", "an empty API call", {"p50": 40}),
    ("linux_overhead_thaw", "memory of a machine with Linux, less its guest's pages", {"p50": 5 * 1024}),
]

# of two results of a Linux guest: what is compared, numerator, denominator, the aim
LINUX = [
    ("thaw run to the guest's init, of QEMU microvm's time", "linux_start_thaw", "linux_start_qemu", 0.8),
    ("restore to the agent's answer, of QEMU microvm's", "linux_restore_thaw", "linux_restore_qemu", 0.25),
    ("clone to the agent's answer, of QEMU microvm's restore", "linux_clone_thaw", "linux_restore_qemu", 0.1),
]
LINUX_IOPS = [
    ("io_uring against without", "linux_iops_thaw", "linux_iops_thaw_sync"),
    ("thaw against QEMU microvm", "linux_iops_thaw", "linux_iops_qemu"),
]


def fmt(v, unit):
    if unit in ("GB/s", "ratio"):
        return "%.2f%s" % (v, " GB/s" if unit == "GB/s" else " times")
    if unit != "us":
        return "%.0f %s" % (v, unit)
    if v < 1000:
        return "%.0f us" % v
    if v < 1e6:
        return "%.2f ms" % (v / 1000)
    return "%.2f s" % (v / 1e6)


def hosts(directory):
    """Which host each file was made on: they may differ."""
    found = {}
    for name in sorted(os.listdir(directory)):
        if name.endswith(".json"):
            with open(os.path.join(directory, name)) as f:
                host = json.load(f)["host"]
            key = (host.get("kind", "?"), host.get("cpu", "?"), host.get("cpus", "?"),
                   host.get("memory_total", 0) >> 20, host.get("kernel", "?"))
            found.setdefault(key, []).append(name[:-5])
    for key, names in found.items():
        print("Host%s: %s KVM, %s, %s CPUs, %s MiB of memory, Linux %s.\n" %
              ((" of " + ", ".join(names) if len(found) > 1 else "",) + key))


def load(directory):
    results, host, version = {}, {}, "?"
    for name in BENCHES:
        path = os.path.join(directory, name + ".json")
        if not os.path.exists(path):
            continue
        with open(path) as f:
            data = json.load(f)
        if name != "linux":
            host, version = data["host"] or host, data["thaw"]
        for r in data["results"]:
            results[r["name"]] = r
    return results, host, version


def aim_rows(results):
    for name, what, aims in AIMS:
        r = results.get(name)
        for q, aim in aims.items():
            if r is None:
                yield (what, q, fmt(aim, "us"), "not measured", "")
                continue
            ok = r[q] <= aim and r["ok"] == r["n"]
            yield (what, q, "<= " + fmt(aim, r["unit"]), fmt(r[q], r["unit"]), "met" if ok else "missed")


def ratio_rows(results):
    def pair(a, b):
        return results[a]["p50"], results[b]["p50"]

    if "answer_fresh_4g" in results:
        small, large = pair("answer_fresh", "answer_fresh_4g")
        more = large - small
        yield ("fresh to answer, 4 GiB guest against 128 MiB", "p50", "<= 1.50 ms more",
               "%s more" % fmt(max(more, 0), "us"), "met" if more <= 1500 else "missed")
    if "answer_pooled_4g" in results:
        small, large = pair("answer_pooled", "answer_pooled_4g")
        off = (large / small - 1) * 100
        yield ("pooled to answer, 4 GiB guest against 128 MiB", "p50", "within 10%",
               "%+.0f%%" % off, "met" if off <= 10 else "missed")
    if "vcpus_4_vs_1" in results:
        v = results["vcpus_4_vs_1"]["p50"]
        yield ("throughput of faults, 4 threads against 1", "p50", ">= 150 %", "%.0f %%" % v,
               "met" if v >= 150 else "missed")
    if "lazy" in results and "eager" in results:
        lazy, eager = pair("lazy", "eager")
        yield ("cold first answer, lazy without a set against eager", "p50", ">= 5 times faster",
               "%.1f times" % (eager / lazy), "met" if eager >= 5 * lazy else "missed")
    if "lazy_tcp" in results and "lazy" in results:
        tcp, lazy = pair("lazy_tcp", "lazy")
        yield ("cold first answer through thaw pager against the local file", "p50", "<= 2 times",
               "%.2f times" % (tcp / lazy), "met" if tcp <= 2 * lazy else "missed")
    if "full_raw_dd" in results:
        full, dd = pair("full_raw", "full_raw_dd")
        yield ("full snapshot, raw, against dd with O_DIRECT and fsync", "p50", ">= 80% of its rate",
               "%.0f%%" % (100 * dd / full), "met" if full <= dd / 0.8 else "missed")
    if "diff_10m_dd" in results:
        diff, dd = pair("diff_10m", "diff_10m_dd")
        yield ("diff of 10 MiB of 1 GiB against dd of as many bytes", "p50", "<= 25.00 ms more",
               "%s more" % fmt(max(diff - dd, 0), "us"), "met" if diff - dd <= 25000 else "missed")
    if "verify_rate" in results:
        rate = results["verify_rate"]["p50"]
        yield ("verify from the page cache", "p50", ">= 5 GB/s", fmt(rate, "GB/s"),
               "met" if rate >= 5 else "missed")
    for what, a, b, aim in LINUX:
        if a in results and b in results:
            x, y = pair(a, b)
            yield ("stock Linux: " + what, "p50", "<= %.2f times" % aim, "%.2f times" % (x / y),
                   "met" if x <= aim * y else "missed")
    for what, a, b in LINUX_IOPS:
        if a in results and b in results:
            x, y = pair(a, b)
            yield ("stock Linux: random reads, " + what, "p50", ">= 1 times", "%.2f times" % (x / y),
                   "met" if x >= y else "missed")
    if "create_with_1000_alive" in results:
        none, alive = pair("create_with_none_alive", "create_with_1000_alive")
        yield ("creating with 1,000 alive against none", "p50", "<= 2 times",
               "%.2f times" % (alive / none), "met" if alive <= 2 * none else "missed")


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(x) for x in row) + " |")
    print()


def main():
    results, host, version = load(sys.argv[1])
    print("# Results\n")
    print("Written by `make bench`, thaw %s, %s.\n" % (version, time.strftime("%Y-%m-%d", time.gmtime())))
    hosts(sys.argv[1])
    print("A machine counts only when it has answered a request of its own with the right\n"
          "content. Times are the client's, from before a request is packed to after its\n"
          "result is unpacked. The built-in guest has 128 MiB unless a row says 4g.\n")
    print("## Aims\n")
    table(["figure", "quantile", "aim", "measured", ""], list(aim_rows(results)) + list(ratio_rows(results)))
    print("## All results\n")
    table(["result", "answered", "p50", "p90", "p99", "max"],
          [("`%s`" % r["name"], "%d/%d" % (r["ok"], r["n"]),
            *[fmt(r[q], r["unit"]) for q in ("p50", "p90", "p99", "max")]) for r in results.values()])
    print("## Notes and steps\n")
    for r in results.values():
        steps = ", ".join("%s %.0f/%.0f" % (k, v["p50"], v["p99"]) for k, v in r.get("steps", {}).items())
        print("- `%s`: %s%s" % (r["name"], r["note"] or "no note",
                                ". Steps, p50/p99 us: " + steps if steps else ""))
    print("\nPlots: " + ", ".join("[%s](results/%s.svg)" % (n, n)
          for n in BENCHES if n != "linux") + ".")


if __name__ == "__main__":
    main()
