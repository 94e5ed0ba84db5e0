"""The Chinese words of a plan: English template to Chinese template, with the same values in it."""

CHINESE: dict[str, str] = {
    # amounts
    "{amount} seconds": "{amount} 秒",
    "{amount} minutes": "{amount} 分钟",
    "{amount} hours": "{amount} 小时",
    "{amount} days": "{amount} 天",
    # batch
    "plan of {name}": "{name} 的计划",
    " ({preset}, changed)": "（{preset}，有改动）",
    "{n} heads": "{n} 个头",
    "{n} heads ({kv} key-value)": "{n} 个头（{kv} 个键值头）",
    "{n} blocks of width {d:,}, {heads}, {mlp} {d_ff:,}, vocabulary {vocabulary:,}": (
        "{n} 层，宽度 {d:,}，{heads}，{mlp} {d_ff:,}，词表 {vocabulary:,}"
    ),
    "optimizer step, in tokens": "优化器步（以 token 计）",
    "accumulation step 1 of A = {most:,}": "累积步 1，共 A = {most:,}",
    "accumulation step 1 of {fewest:,} to {most:,}, by rank": "累积步 1，各 rank 共 {fewest:,} 至 {most:,}",
    "accumulation step {most:,}": "累积步 {most:,}",
    ": {working:,} of {D:,} ranks": "：{D:,} 个 rank 中的 {working:,} 个",
    "{n:,} more": "另有 {n:,} 个",
    "rank {rank:,} ({hosted}): {size}": "rank {rank:,}（{hosted}）：{size}",
    "lane {n:,}": "通道 {n:,}",
    "lanes {first:,}-{last:,}": "通道 {first:,}-{last:,}",
    "1 sequence × {L:,}": "1 个序列 × {L:,}",
    "{n:,} sequences × {L:,}": "{n:,} 个序列 × {L:,}",
    "V = 1 lane: nothing else to add": "V = 1 条通道：无需再相加",
    "V = {V:,} lanes, added in one tree of height {height}: the same bits for every D": (
        "V = {V:,} 条通道，按高度为 {height} 的同一棵树相加：任何 D 都逐位相同"
    ),
    "micro-batches a step": "个微批次每步",
    "micro-batches a step, V = {V:,} lanes of {n:,}": "个微批次每步，V = {V:,} 条通道，每条 {n:,} 个",
    "steps": "步数",
    "{n:,} steps": "{n:,} 步",
    "T_tokens / GB_tok, rounded down": "T_tokens / GB_tok，向下取整",
    "tokens seen": "实际 token 数",
    "all of T_tokens": "T_tokens 全部用到",
    "{dropped:,} of T_tokens do not fill a step": "T_tokens 中有 {dropped:,} 个不足一步",
    "; {epochs:.2f} epochs of the training split": "；训练集 {epochs:.2f} 轮",
    "warm-up": "预热",
    "of {n:,} tokens": "共 {n:,} 个 token",
    "learning rate": "学习率",
    "peak; first step {first:.3g}, last step {last:.3g}": "峰值；第一步 {first:.3g}，最后一步 {last:.3g}",
    # model
    "head tied": "输出头共用词表",
    "{n} in the head": "输出头 {n}",
    "tables {n}": "嵌入表 {n}",
    "every product, attention as full square (PaLM)": "全部矩阵乘，注意力按整个方阵（PaLM 口径）",
    "{FLOPs} with N_params_total": "用 N_params_total 则为 {FLOPs}",
    # memory
    "memory per rank": "每 rank 显存",
    "weights": "权重",
    "gathered weights": "聚齐的权重",
    "gradients": "梯度",
    "exchange": "交换",
    "optimizer": "优化器",
    "bf16 weights": "bf16 权重",
    "digests": "摘要",
    "libraries": "运行库",
    "activations": "激活",
    "outside blocks": "层外激活",
    "logits": "logits",
    "temporary": "临时缓冲",
    "checkpoint buffer": "检查点缓冲",
    "together": "合计",
    "fits": "放得下",
    "does not fit": "放不下",
    "fits the {has} of {name}": "放得进 {name} 的 {has}",
    "does not fit the {has} of {name}": "放不进 {name} 的 {has}",
    "not even one sequence fits": "一个序列也放不下",
    "largest μ_tok at this V: {n:,}": "此 V 下最大 μ_tok：{n:,}",
    "same bits": "逐位相同",
    "other bits": "结果的位不同",
    "at most {n:,} blocks of this width fit": "此宽度最多放得下 {n:,} 层",
    "{name} has {has}, a rank needs {needs}": "{name} 有 {has}，一个 rank 需要 {needs}",
    "largest μ_tok that fits, a multiple of L_ctx with which V divides M: {n}": (
        "放得下的最大 μ_tok（L_ctx 的倍数，且 V 整除 M）：{n}"
    ),
    "with all of it at most {n:,} blocks of this width fit: llmrun shards data, not models": (
        "全部用上，此宽度最多放得下 {n:,} 层：llmrun 切分数据，不切分模型"
    ),
    "{share:.0%} more FLOPs: every block forward twice": "多 {share:.0%} 的 FLOPs：每层前向两次",
    "each rank receives {gathered} of weights per micro-batch": "每个微批次每个 rank 要接收 {gathered} 的权重",
    "micro-batches of {smaller:,} tokens instead of {now:,}: other bits, smaller products": (
        "微批次由 {now:,} 减到 {smaller:,} 个 token：位不同，矩阵乘更小"
    ),
    "other bits, and D is at most {D:,} for ever": "位不同，而且 D 从此最多 {D:,}",
    "{times:.3g} times as many devices": "设备数为 {times:.3g} 倍",
    "beside it, what papers give:": "论文中的公式给出：",
    "  activations of a GPT block without a fused kernel = μ_tok·(34·d_model + 5·n_heads·L_ctx) = {bytes} "
    "(Korthikanti et al. 2022, arXiv 2205.05198, eq. 1)": (
        "  无融合核的 GPT 一层激活 = μ_tok·(34·d_model + 5·n_heads·L_ctx) = {bytes}"
        "（Korthikanti et al. 2022, arXiv 2205.05198, 式 1）"
    ),
    "  inputs of all blocks in bf16, under full recomputation = 2·μ_tok·n_layers·d_model = {bytes}": (
        "  完全重算时各层输入（bf16）= 2·μ_tok·n_layers·d_model = {bytes}"
    ),
    "  weights, gradients and optimizer in mixed precision: {states} (Rajbhandari et al. 2020, arXiv 1910.02054)": (
        "  混合精度的权重、梯度与优化器：{states}（Rajbhandari et al. 2020, arXiv 1910.02054）"
    ),
    # checkpoints
    "checkpoint": "检查点",
    "on disk": "磁盘占用",
    "save every": "保存间隔",
    "12 bytes a parameter, {per_rank} from each rank": "每参数 12 字节，每个 rank 写 {per_rank}",
    "at most {n:,}; each takes {time} at {GBps:g} GB/s": "最多 {n:,} 个；每个写 {time}（{GBps:g} GB/s）",
    "Daly: goodput {share}, MTBF of the run {time}": "Daly：有效率 {share}，整个任务的 MTBF {time}",
    "as configured, {time}: goodput {share}": "按配置每 {time}：有效率 {share}",
    "as configured": "按配置",
    "llmrun writes fp32 weights and two fp32 moments: 12·N_params_total = 12·{N:,} = {total:,} bytes = {shown}; "
    "{per_rank} from each of D = {D:,}": (
        "llmrun 写 fp32 权重与两个 fp32 动量：12·N_params_total = 12·{N:,} = {total:,} 字节 = {shown}；"
        "D = {D:,} 个 rank 各写 {per_rank}"
    ),
    "by part: {parts}; headers and JSON are less than 1 % more": "分项：{parts}；文件头与 JSON 另占不到 1 %",
    "textbook, bf16 weights and two fp32 moments: N·2 + N·8 = {total:,} bytes = {shown}; {per_rank} from each of D = {D:,}": (
        "教科书算法，bf16 权重与两个 fp32 动量：N·2 + N·8 = {total:,} 字节 = {shown}；D = {D:,} 个 rank 各 {per_rank}"
    ),
    "on disk: keep_last {newest:,} + best {best} + kept for ever {permanent:,} + the one being written = {n:,}, {total}": (
        "磁盘上：keep_last {newest:,} + 最佳 {best} + 永久保留 {permanent:,} + 正在写的一个 = {n:,}，{total}"
    ),
    "δ = {bytes} / {GBps:g} GB/s = {delta} to write one; llmrun writes in the background, so training waits less": (
        "δ = {bytes} / {GBps:g} GB/s = 写一个要 {delta}；llmrun 在后台写，训练等得更少"
    ),
    "M = device_MTBF_hours / D = {device:,.0f} / {D:,} = {M} between interruptions "
    "(Llama 3 405B: 54 days · 16,384 / 419 = 50,677 hours, arXiv 2407.21783, section 3.3.4)": (
        "M = device_MTBF_hours / D = {device:,.0f} / {D:,} = 每 {M} 中断一次"
        "（Llama 3 405B：54 天 · 16,384 / 419 = 50,677 小时，arXiv 2407.21783 第 3.3.4 节）"
    ),
    "Young = sqrt(2·δ·M) = {young} (Young 1974); Daly = Young·(1 + sqrt(δ/2M)/3 + (δ/2M)/9) - δ = {daly} (Daly 2006, eq. 37)": (
        "Young = sqrt(2·δ·M) = {young}（Young 1974）；Daly = Young·(1 + sqrt(δ/2M)/3 + (δ/2M)/9) - δ = {daly}（Daly 2006, 式 37）"
    ),
    "goodput = τ / (M·e^(R/M)·(e^((τ+δ)/M) - 1)), R = {R} until training goes on (Daly 2006, eq. 20):": (
        "有效率 = τ / (M·e^(R/M)·(e^((τ+δ)/M) - 1))，R = {R} 后恢复训练（Daly 2006, 式 20）："
    ),
    "with interruptions: time / goodput {share} = {time}, / M = {n} interruptions": (
        "计入中断：时间 / 有效率 {share} = {time}，/ M = {n} 次中断"
    ),
    "interval": "间隔",
    "written a day": "每天写入",
    # costs
    "time": "时间",
    "GPU-hours": "GPU 小时",
    "energy": "能耗",
    "price of energy": "电费",
    "price of GPUs": "GPU 费用",
    "measured": "实测",
    "on {D:,} {name} at an assumed MFU of {mfu:g}": "{D:,} 块 {name}，假定 MFU 为 {mfu:g}",
    "D · time; {time} with {n} interruptions": "D · 时间；计 {n} 次中断为 {time}",
    "D · time; it would never end: interrupted too often": "D · 时间；中断太频繁，永远训不完",
    "at {n:g} kg/kWh": "按 {n:g} kg/kWh",
    "at {n:g} ¥/kWh": "按 {n:g} ¥/kWh",
    "at {n:g} ¥/GPU-hour": "按 {n:g} ¥/GPU 小时",
    "{key} is not set": "未设置 {key}",
    "the hardware table has no {precision} peak of {name}": "硬件表中没有 {name} 的 {precision} 峰值",
    "the hardware table has no TDP of {name}": "硬件表中没有 {name} 的 TDP",
    "time = tokens_seen / measured throughput = {tokens:,} / {rate} per second = {time} ({says})": (
        "时间 = tokens_seen / 实测吞吐 = {tokens:,} / 每秒 {rate} = {time}（{says}）"
    ),
    "with recomputation an MFU of {mfu:g} is an HFU of {hfu:.3g}": "计入重算，MFU {mfu:g} 即 HFU {hfu:.3g}",
    "¥/kWh and ¥/GPU-hour are two prices, never added: rent includes energy": (
        "¥/kWh 与 ¥/GPU 小时是两种价格，从不相加：租金已含电费"
    ),
    # explanation
    "batch": "批次",
    "what each D costs (the same bits for all)": "各 D 的代价（结果都逐位相同）",
    "parameters": "参数",
    "what would fit": "怎样才放得下",
    "interval between checkpoints": "检查点间隔",
    "time, energy, CO2, money": "时间、能耗、CO2、费用",
    "A: D = {D:,} does not divide M = {M:,}; ranks compute {smallest:,} to {largest:,} micro-batches": (
        "A：D = {D:,} 不整除 M = {M:,}；各 rank 计算 {smallest:,} 至 {largest:,} 个微批次"
    ),
    "sequences of a micro-batch = μ_tok / L_ctx = {mu:,} / {L:,} = {n:,}": (
        "每个微批次的序列数 = μ_tok / L_ctx = {mu:,} / {L:,} = {n:,}"
    ),
    "warm-up = ceil(warmup_tokens / GB_tok) = ceil({warmup:,} / {gb:,}) = {steps:,} steps, {tokens:,} tokens": (
        "预热 = ceil(warmup_tokens / GB_tok) = ceil({warmup:,} / {gb:,}) = {steps:,} 步，{tokens:,} 个 token"
    ),
    "lanes: V = {V:,}, each of M / V = {n:,}": "通道：V = {V:,}，每条 M / V = {n:,} 个微批次",
    "waiting": "等待",
    "sums sent": "发送部分和",
    "gradient buffers": "梯度缓冲",
    "of each rank": "每 rank",
    "uneven": "不均",
    "a D that does not divide M = {M:,} takes `--set batch.uneven=allow`, the same bits": (
        "不整除 M = {M:,} 的 D 要加 `--set batch.uneven=allow`，逐位相同"
    ),
    "at most {n:,}": "最多 {n:,}",
    "block = {n:,}": "一层 = {n:,}",
    "N_params = n_layers · block + norms = {layers:,} · {block:,} + {norms:,} = {N:,}": (
        "N_params = n_layers · 一层 + 归一化 = {layers:,} · {block:,} + {norms:,} = {N:,}"
    ),
    "tables = {tables:,}; output head = {head:,}": "嵌入表 = {tables:,}；输出头 = {head:,}",
    " (shares the token table)": "（共用词表）",
    "tokens per parameter = {ratio} (about 20 spends FLOPs best: Hoffmann et al. 2022, arXiv 2203.15556)": (
        "每参数 token 数 = {ratio}（约 20 时 FLOPs 用得最好：Hoffmann et al. 2022, arXiv 2203.15556）"
    ),
    "{preset} is for planning only: it has {what}": "{preset} 只能用于计划，因为它有：{what}",
    "a product [m,k]·[k,n] is 2·m·n·k; forward and backward are 3 times forward; per token:": (
        "乘积 [m,k]·[k,n] 计 2·m·n·k；前向加反向为前向的 3 倍；每个 token："
    ),
    "projections and MLP of a block = {n:,}": "一层的投影与 MLP = {n:,}",
    "attention of a block = 4·L_ctx·n_heads·head_dim = 4·{L:,}·{heads}·{dim} = {n:,} (full square)": (
        "一层的注意力 = 4·L_ctx·n_heads·head_dim = 4·{L:,}·{heads}·{dim} = {n:,}（整个方阵）"
    ),
    "output head = 2·d_model·vocab_size = 2·{d:,}·{vocabulary:,} = {n:,}": (
        "输出头 = 2·d_model·vocab_size = 2·{d:,}·{vocabulary:,} = {n:,}"
    ),
    "FLOPs per token = 3·({layers}·({projections:,} + {square:,}) + {head:,}) = {n:,}": (
        "每 token FLOPs = 3·({layers}·({projections:,} + {square:,}) + {head:,}) = {n:,}"
    ),
    "conventions, over tokens_seen ({used} is used here and by the MFU of a run):": (
        "各种口径，按 tokens_seen 计（此处与运行时的 MFU 用 {used}）："
    ),
    "activation checkpointing: the hardware does {total} (HFU), MFU does not count it": (
        "激活重算：硬件实际做 {total}（HFU），MFU 不计"
    ),
    "second / first": "后者 / 前者",
    "reduced gradients": "已归约的梯度",
    "my last {n} forecasts of the time of a step on this machine: median error {median}, worst {worst}": (
        "本机最近 {n} 次对每步时间的预测：误差中位数 {median}，最大 {worst}"
    ),
    "my last {n} forecasts of the time of a run on this machine: median error {median}, worst {worst}": (
        "本机最近 {n} 次对运行时间的预测：误差中位数 {median}，最大 {worst}"
    ),
    "my last {n} forecasts of memory on this machine: median error {median}, worst {worst}": (
        "本机最近 {n} 次对内存的预测：误差中位数 {median}，最大 {worst}"
    ),
    "my last {n} forecasts of checkpoints on this machine: median error {median}, worst {worst}": (
        "本机最近 {n} 次对检查点大小的预测：误差中位数 {median}，最大 {worst}"
    ),
    "my last {n} forecasts of energy on this machine: median error {median}, worst {worst}": (
        "本机最近 {n} 次对能耗的预测：误差中位数 {median}，最大 {worst}"
    ),
    "no run below {runs_dir} has judged a forecast on this machine yet": "{runs_dir} 下还没有运行在本机上检验过预测",
    "no forecast of time that was made like this one has been judged yet: no interval": (
        "还没有检验过同样得出的时间预测：无法给出区间"
    ),
    "fewer than {n} forecasts give no interval": "少于 {n} 次预测，无法给出区间",
    "by that record the time is {low} to {high}": "按此记录，时间为 {low} 到 {high}",
    "by that record the memory of a rank is {low} to {high}": "按此记录，每个 rank 的内存为 {low} 到 {high}",
    "in use; a CPU process also keeps what it freed, up to half as much again": (
        "使用中的量；CPU 进程还会保留已释放的内存，最多再加一半"
    ),
    "{n} steps timed on D = {D} {where}: {step} a step (± {spread}), {rate} tokens/s": (
        "在 D = {D} 的 {where} 上计时 {n} 步：每步 {step}（± {spread}），{rate} token/s"
    ),
    "{assumed}; evaluation and saving are not in it": "{assumed}；不含评估和保存",
    "evaluation and saving are not in the time": "时间不含评估和保存",
    "the exchange among D = {D} ranks is not in it either: {timed} did the same work each": (
        "也不含 D = {D} 个 rank 之间的交换：{timed} 个 rank 各做了同样的工作"
    ),
    "nothing here counts energy": "本机没有能耗计数器",
    "energy of the devices, as they counted it: {energy}": "设备自己计数的能耗：{energy}",
    "{n} steps timed on D = {D} {where}": "在 D = {D} 的 {where} 上计时 {n} 步",
    "as earlier runs of this work took here": "按本机以前同样的运行",
    "at the FLOP/s of earlier runs here": "按本机以前运行的 FLOP/s",
    "fp32": "fp32",
    "two fp32 moments": "两个 fp32 动量",
    "what the libraries of a process touch beside tensors, measured": "进程的运行库在张量之外占用的内存，实测值",
    "constants and products": "常数与乘积",
    "in host memory": "在主机内存中",
    "flat fp32 buffers of lanes": "各通道的平铺 fp32 缓冲",
    "partial sums received, and their sum": "收到的部分和，以及它们的和",
    "rows, and flat for the optimizer": "按行一份，为优化器平铺一份",
    "flat, and the tree's nodes between slots of lanes": "平铺一份，以及各组通道之间树的节点",
    "log-probabilities, two gradients": "对数概率，两份梯度",
    "gradients of the logits and of the head's weights": "logits 与输出头权重的梯度",
    "gradients around the final norm, less the head's input": "最后归一化前后的梯度，减去输出头的输入",
    "gradients around the final norm, less the head's input; the tied table's waits": (
        "最后归一化前后的梯度，减去输出头的输入；共用词表的梯度在等待"
    ),
    "inputs of blocks, and the last block in full": "各层的输入，以及完整的最后一层",
    "gradients inside the MLP": "MLP 内的梯度",
    "gradients inside the MLP; the tied table's waits": "MLP 内的梯度；共用词表的梯度在等待",
    "gradients of the token table and of its output": "词表及其输出的梯度",
    "the norm's chunk, foreach's copy, or the shard that is sent; gloo also copies what it receives": (
        "求范数的分块、foreach 的副本或发送的分片；gloo 还会复制收到的数据"
    ),
    "without the last block": "不含最后一层",
    "sent and received": "发送与接收",
    "tables, and blocks in use": "嵌入表与正在使用的层",
    "N_params_total/D once a slot is reduced; tables sent and received": (
        "一组通道归约后为 N_params_total/D；另有收发的嵌入表"
    ),
    "inputs of blocks": "各层的输入",
    "bytes that a block keeps of each token": "一层为每个 token 保留的字节",
    "final norm, the head's input": "最后的归一化，输出头的输入",
    "copies of matrices under autocast": "autocast 下矩阵的副本",
    "every matrix product, full square: PaLM, Megatron-LM 2021": "全部矩阵乘，整个方阵：PaLM，Megatron-LM 2021",
    "half of the square: Megatron-LM today, FlashAttention": "半个方阵：如今的 Megatron-LM，FlashAttention",
    "Kaplan et al. 2020": "Kaplan et al. 2020",
    "GPT-3, Gopher": "GPT-3，Gopher",
    "PaLM appendix B, MosaicML": "PaLM 附录 B，MosaicML",
    "nanoGPT: no position table in N": "nanoGPT：N 不含位置表",
    "torchtitan: no token table in N": "torchtitan：N 不含词表",
    "Chinchilla appendix F, its table A4": "Chinchilla 附录 F，其表 A4",
    "Narayanan 2021, eq. 3: blocks forward twice": "Narayanan 2021，式 3：各层前向两次",
    "Korthikanti 2022, appendix A: attention twice": "Korthikanti 2022，附录 A：注意力两次",
    "MosaicML with activation checkpointing": "MosaicML，启用激活重算",
    "Narayanan 2021, eq. 4": "Narayanan 2021，式 4",
    "D = {D} does not divide V = {V}: ranks compute {smallest} to {largest} micro-batches a step, "
    "and {share:.0%} of their time is waiting": (
        "D = {D} 不整除 V = {V}：各 rank 每步计算 {smallest} 到 {largest} 个微批次，{share:.0%} 的时间在等待"
    ),
    "D = {cheap} divides V; or start the run with a V that D = {D} divides (other bits)": (
        "D = {cheap} 整除 V；或以能被 D = {D} 整除的 V 开始运行（结果的位不同）"
    ),
    "the training split has {train:,} tokens and the run sees {seen:,}: {epochs:.2f} epochs": (
        "训练集有 {train:,} 个 token，运行要看 {seen:,} 个：{epochs:.2f} 轮"
    ),
    "`--set T_tokens={whole}` is at most one epoch": "`--set T_tokens={whole}` 不超过一轮",
    "prepare more data": "请准备更多数据",
    "the run needs {needs} on this machine, which lets it have {has}": "运行在本机上需要 {needs}，本机允许使用 {has}",
    "lower batch.D, or batch.μ_tok (other bits)": "减小 batch.D，或减小 batch.μ_tok（结果的位不同）",
    "the run has {threads:,} threads, a control group lets {cpus:g} processors run": (
        "运行有 {threads:,} 个线程，控制组（cgroup）只允许使用 {cpus:g} 个处理器"
    ),
    "lower batch.D, or raise the limit": "减小 batch.D，或提高该限制",
    "a rank needs {needs}, {name} has {has}": "一个 rank 需要 {needs}，{name} 有 {has}",
    "nothing that llmrun can do suffices: at most {n:,} blocks of this width fit": (
        "llmrun 能做的都不够：这个宽度最多放得下 {n:,} 层"
    ),
    "`{settings}` needs {bytes} (the same bits); `llmrun plan --explain` lists all ways": (
        "`{settings}` 需要 {bytes}（逐位相同）；`llmrun plan --explain` 列出全部办法"
    ),
    "`{settings}` needs {bytes} (other bits); `llmrun plan --explain` lists all ways": (
        "`{settings}` 需要 {bytes}（结果的位不同）；`llmrun plan --explain` 列出全部办法"
    ),
}
