"""Flags that several commands share, one frozen dataclass a subject. Knows no command and does nothing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from swift.flags import flag

DTYPES = {"auto": "AUTO", "bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
Dtype = Literal["AUTO", "bf16", "fp16", "fp32"]
SftType = Literal[
    "lora", "full", "longlora", "adalora", "ia3", "vera", "boft", "oft", "fourierft", "loha", "lokr", "hra", "miss",
    "randlora", "c3a", "shira", "road", "ln", "part", "trainable_tokens", "prompt", "prefix", "ptuning",
    "adapter", "scetuning", "reft", "side", "restuning", "llamapro",
]  # fmt: skip


@dataclass(frozen=True)
class QuantFlags:
    """Quantisation"""

    quantization_bit: Literal["0", "4", "8"] = "0"
    """Bits of the frozen weights while they are loaded (QLoRA); 0 leaves them as they are"""
    quant_method: Literal["bnb", "hqq", "torchao", "gptq", "awq", "torch"] = flag("bnb", alias=("quantization_method",))
    """Library that quantises: bitsandbytes, HQQ, torchao (pip install -e '.[quant]'); torch: answers on CPUs"""
    bnb_4bit_comp_dtype: Dtype = flag("AUTO", alias=("bnb_4bit_compute_dtype",), values=DTYPES)
    """What bitsandbytes computes in at 4 bits; AUTO takes --dtype"""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Numbers that 4 bits of bitsandbytes stand for"""
    bnb_4bit_use_double_quant: bool = True
    """Quantise the scales of bitsandbytes' 4-bit weights too"""
    hqq_axis: Literal["0", "1"] = "0"
    """Axis along which HQQ makes groups"""

    @property
    def bits(self) -> int:
        return int(self.quantization_bit)


@dataclass(frozen=True)
class ModelFlags:
    """Model"""

    model_type: str | None = None
    """Registered short name of a model; gives its hub id, template and LoRA targets"""
    model_id_or_path: str | None = flag(None, alias=("model",))
    """Folder, hub id or registered name of the model"""
    model_revision: str = "master"
    """Revision to fetch from the hub"""
    dtype: Dtype = flag("AUTO", alias=("torch_dtype",), values=DTYPES)
    """Precision of the weights; AUTO suits model and hardware"""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps; auto takes the fastest there is"""
    trust_remote_code: bool = False
    """Run Python code that comes with the model's files"""
    use_hf: bool = False
    """Fetch from Hugging Face instead of ModelScope what is not on this machine"""
    registry: tuple[str, ...] = ()
    """TOML files that give models and data sets of your own a name: [models.NAME], [datasets.NAME]"""
    quant: QuantFlags = QuantFlags()


@dataclass(frozen=True)
class TemplateFlags:
    """Template"""

    template_type: str = flag("AUTO", alias=("template",))
    """Chat format; AUTO takes the one that belongs to the model"""
    system: str | None = None
    """System text of dialogues that bring none; none keeps the template's own, '' leaves it out"""
    agent_template: str = flag("AUTO", alias=("tools_prompt",))
    """Text form in which tools are offered and called; AUTO takes that of the model's own chat template, else ReAct"""
    enable_thinking: bool | None = None
    """Let a model think before it answers, where its own chat template has a switch for it; none leaves it alone"""
    chat_template_kwargs: dict[str, Any] = flag({})
    """Variables of the model's own chat template, as JSON: {"reasoning_effort": "low"}"""
    history_reasoning: Literal["template", "keep", "strip"] = "template"
    """Thoughts of earlier rounds: as the model's own template has them, all kept, or none"""
    reasoning_weight: float = 1.0
    """Loss weight of what a reply thinks, beside its other weights; 0 trains no thought"""
    template_date: str = "AUTO"
    """Date in chat templates that name one, as 2026-01-31; AUTO: today, but 2025-01-01 for training and its models"""
    loss_scale: str = "AUTO"
    """Loss weights in replies: AUTO (calls count twice), names joined by + (react, last_round ...) or a JSON file"""
    use_loss_scale: bool | None = None
    """Older switch for loss_scale: true means AUTO, false means default"""
    max_length: int = 2048
    """Most tokens in a row; -1 sets no limit"""
    truncation_strategy: Literal["delete", "truncation_left", "error"] = flag(
        "delete", values={"ignore": "delete", "left": "truncation_left", "raise": "error"}
    )
    """What happens to a longer row: leave it out, cut its oldest turns, or stop"""
    max_pixels: int | None = None
    """Most pixels of an image, width x height; a larger one is made smaller; none leaves it to the model's processor"""

    def __post_init__(self) -> None:
        """ValueError if use_loss_scale and loss_scale say opposite things, or a limit is none."""
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"--max_pixels {self.max_pixels}: must be 1 or more")
        if not 0 <= self.reasoning_weight < math.inf:
            raise ValueError(f"--reasoning_weight {self.reasoning_weight:g}: must be 0 or more, and not infinite")
        self._check_variables()
        self.date(trained=True)
        for name, value in (("template_type", self.template_type), ("agent_template", self.agent_template)):
            if value != "AUTO" and value.upper() == "AUTO":
                raise ValueError(f"--{name} {value}: did you mean AUTO?")
        if self.template_type != "AUTO":
            self.check_table(self.template_type)
        if self.use_loss_scale is False and self.loss_scale not in ("AUTO", "react", "default", "none"):
            raise ValueError(f"--use_loss_scale false contradicts --loss_scale {self.loss_scale}: give one of them")
        if self.use_loss_scale and self.loss_scale in ("default", "none"):
            raise ValueError(f"--use_loss_scale true contradicts --loss_scale {self.loss_scale}: give one of them")
        if self.max_length < -1 or self.max_length == 0:
            raise ValueError(f"--max_length: {self.max_length} is no length (-1 sets no limit)")

    def _check_variables(self) -> None:
        """ValueError for variables that no chat template could be given."""
        said = self.chat_template_kwargs.get("enable_thinking", self.enable_thinking)
        if said is not None and not isinstance(said, bool):
            raise ValueError(f"--chat_template_kwargs: enable_thinking must be true or false, not {json.dumps(said)}")
        if self.enable_thinking is not None and said != self.enable_thinking:
            raise ValueError("--enable_thinking contradicts --chat_template_kwargs: give one of them")
        given = ("messages", "tools", "documents", "add_generation_prompt")
        if taken := next((name for name in given if name in self.kwargs), None):
            raise ValueError(f"--chat_template_kwargs: {taken!r} is what every template gets anyway: leave it out")

    def check_table(self, name: str) -> None:
        """ValueError for flags that the template called `name`, a table of ours, would ignore."""
        without = f"template {name!r} is a table without"
        if self.kwargs:
            flag = "--chat_template_kwargs" if self.chat_template_kwargs else "--enable_thinking"
            raise ValueError(f"{flag}: {without} variables: leave it out")
        if self.history_reasoning == "strip":
            raise ValueError(f"--history_reasoning strip: template {name!r} keeps all thoughts: take keep")
        if self.template_date != "AUTO":
            raise ValueError(f"--template_date {self.template_date}: {without} a date: leave it out")

    @property
    def kwargs(self) -> dict[str, Any]:
        """The variables of the model's own chat template."""
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {**self.chat_template_kwargs, **thinking}

    def date(self, trained: bool) -> date | None:
        """The date that chat templates see; None: the day it is. `trained`: for training, or a model it made."""
        if self.template_date == "AUTO":
            return date(2025, 1, 1) if trained else None
        try:
            day = date.fromisoformat(self.template_date)
        except ValueError:
            day = None
        if day is None or day.isoformat() != self.template_date:  # other writings of a date are newer Pythons' alone
            raise ValueError(f"--template_date {self.template_date}: not a date, such as 2026-01-31")
        return day

    @property
    def scale(self) -> str:
        """The loss scale that holds once `use_loss_scale` has had its say."""
        return "default" if self.use_loss_scale is False and self.loss_scale in ("AUTO", "react") else self.loss_scale


@dataclass(frozen=True)
class DataFlags:
    """Data"""

    dataset: tuple[str, ...] = flag((), alias=("custom_train_dataset_path",), commas=True)
    """Training sets: files, registered names or hub ids; name#500 takes 500 rows of it"""
    val_dataset: tuple[str, ...] = flag((), alias=("custom_val_dataset_path",), commas=True)
    """Validation sets; with one, no rows are split off the training sets"""
    dataset_test_ratio: float = flag(0.01, alias=("split_dataset_ratio",))
    """Share of the rows split off for validation"""
    train_dataset_sample: int = -1
    """Rows of the training sets to use; -1 takes all"""
    val_dataset_sample: int | None = None
    """Rows of the validation set to use; none takes all"""
    train_dataset_mix_ratio: float = 0.0
    """General rows to add, as a multiple of the training rows"""
    train_dataset_mix_ds: tuple[str, ...] = flag(("ms-bench",), commas=True)
    """Sets that the general rows come from"""
    self_cognition_sample: int = 0
    """Rows to add in which the model says who it is and who made it"""
    model_name: tuple[str, ...] = ()
    """The model's name in these rows: Chinese, then English; one name serves both"""
    model_author: tuple[str, ...] = ()
    """The model's maker in these rows: Chinese, then English; one name serves both"""
    check_dataset_strategy: Literal["none", "discard", "error", "warning"] = "warning"
    """What happens to a bad row: pass it on, drop it, stop, or name it and drop it"""
    columns: dict[str, str] = flag({})
    """Other names of a file's columns, as JSON: {"question": "query"}"""
    dataset_seed: int = flag(42, alias=("data_seed",))
    """Seed of splitting, sampling and mixing"""


@dataclass(frozen=True)
class LoraFlags:
    """LoRA"""

    lora_rank: int = 8
    """LoRA r"""
    lora_alpha: int = 32
    """LoRA alpha: updates are scaled by alpha / r"""
    lora_dropout_p: float = flag(0.05, alias=("lora_dropout",))
    """Dropout before LoRA's matrices"""
    lora_target_modules: tuple[str, ...] = flag(
        ("DEFAULT",), alias=("target_modules",), commas=True, values={"all-linear": "ALL", "AUTO": "DEFAULT"}
    )
    """Modules that get LoRA: DEFAULT (the model's usual), ALL (every linear layer but the head), EMBEDDING, names"""
    lora_modules_to_save: tuple[str, ...] = flag((), alias=("modules_to_save",), commas=True)
    """Modules trained whole beside LoRA: names, EMBEDDING, LN"""
    lora_bias_trainable: Literal["none", "all"] = flag("none", alias=("lora_bias",))
    """Which biases are trained"""
    lora_dtype: Dtype = flag("AUTO", values=DTYPES)
    """Precision of LoRA's matrices; AUTO takes fp32: bf16 loses small steps"""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r)"""
    use_dora: bool = False
    """Weight-decomposed LoRA"""
    init_lora_weights: str = flag("true", alias=("init_weights",))
    """Start values: true, false, gaussian, orthogonal, pissa, olora, loftq; from the training rows: eva, lora_ga"""
    lora_lr_ratio: float | None = None
    """LoRA+: learning rate of B as a multiple of that of A (10 to 16 is usual)"""


@dataclass(frozen=True)
class TunerFlags:
    """Other tuners"""

    freeze_parameters: float = 0.0
    """full: share of the parameters, from the embeddings up, that stay as they are"""
    additional_trainable_parameters: tuple[str, ...] = ()
    """full: beginnings of the names of parameters that are trained all the same"""
    freeze_vit: bool = True
    """Image models: leave the part that sees as it is; false lets the tuner at it too"""
    freeze_aligner: bool = True
    """Image models: leave what stands between that part and the language model as it is"""
    longlora_group_size: int = 512
    """longlora: tokens that attend to each other in training"""
    adalora_target_r: int = 8
    """adalora: rank of a layer in the end, on average"""
    adalora_init_r: int = 12
    """adalora: rank of each layer in the beginning"""
    adalora_tinit: int = 0
    """adalora: steps before ranks are taken away"""
    adalora_tfinal: int = 0
    """adalora: last steps, in which ranks stay as they are"""
    adalora_deltaT: int = 1
    """adalora: steps between two times that ranks are taken away"""
    adalora_beta1: float = 0.85
    """adalora: how slowly the measured importance moves"""
    adalora_beta2: float = 0.85
    """adalora: how slowly its uncertainty moves"""
    adalora_orth_reg_weight: float = 0.5
    """adalora: weight of the penalty that keeps its matrices orthogonal"""
    ia3_target_modules: tuple[str, ...] = flag(("DEFAULT",), commas=True)
    """ia3: modules to scale, as for LoRA"""
    ia3_feedforward_modules: tuple[str, ...] = flag((), commas=True)
    """ia3: those of them whose inputs are scaled; none means the model's usual"""
    ia3_modules_to_save: tuple[str, ...] = flag((), commas=True)
    """ia3: modules trained whole"""
    vera_target_modules: tuple[str, ...] = flag(("DEFAULT",), commas=True)
    """vera: modules to adapt, as for LoRA"""
    vera_modules_to_save: tuple[str, ...] = flag((), commas=True)
    """vera: modules trained whole"""
    vera_rank: int = 256
    """vera: rank of the shared matrices"""
    vera_projection_prng_key: int = 0
    """vera: seed of the shared matrices"""
    vera_dropout: float = 0.0
    """vera: dropout"""
    vera_d_initial: float = 0.1
    """vera: start value of one of its vectors"""
    boft_target_modules: tuple[str, ...] = flag(("DEFAULT",), commas=True)
    """boft: modules to adapt, as for LoRA"""
    boft_modules_to_save: tuple[str, ...] = flag((), commas=True)
    """boft: modules trained whole"""
    boft_block_size: int = 4
    """boft: size of a block"""
    boft_block_num: int = 0
    """boft: number of blocks, in place of their size"""
    boft_n_butterfly_factor: int = 1
    """boft: butterfly factors"""
    boft_dropout: float = 0.0
    """boft: dropout"""
    oft_block_size: int = 32
    """oft: size of a block"""
    fourier_n_frequency: int = 2000
    """fourierft: coefficients of a layer"""
    fourier_scaling: float = 300.0
    """fourierft: what the change of weights is multiplied by"""
    c3a_block_size: int = 0
    """c3a: size of a block; 0 takes the largest that divides every side, up to 256"""
    road_group_size: int = 64
    """road: outputs in a group"""
    trainable_token_ids: tuple[int, ...] = ()
    """trainable_tokens: ids of the tokens"""
    num_virtual_tokens: int = 20
    """prompt, prefix, ptuning: length of what stands before the row"""
    prompt_encoder_hidden_size: int | None = None
    """ptuning: width of the network; none means the model's"""
    adapter_act: str = "gelu"
    """adapter, side, restuning: activation"""
    adapter_length: int = 128
    """adapter, side, restuning: width of the bottleneck"""
    reft_rank: int = 4
    """reft: size of the subspace"""
    llamapro_num_new_blocks: int = 4
    """llamapro: new blocks"""
    llamapro_num_groups: int | None = None
    """llamapro: groups of blocks that the new ones stand behind; none means one for each new block"""
    lisa_activated_layers: int = 0
    """full: blocks trained at a time, drawn anew every so often (LISA); 0 trains all"""
    lisa_step_interval: int = 20
    """full: steps between two draws of LISA"""
    use_galore: bool = False
    """full: AdamW on gradients projected to a low rank (pip install -e '.[galore]')"""
    galore_rank: int = 128
    """GaLore: rank of the gradients"""
    galore_target_modules: tuple[str, ...] = flag((), commas=True)
    """GaLore: linear layers whose gradients are projected; none means those of attention and feed-forward parts"""
    galore_update_proj_gap: int = 50
    """GaLore: steps between two projections"""
    galore_scale: float = 1.0
    """GaLore: what projected gradients are multiplied by"""
    galore_proj_type: Literal["std", "reverse_std", "right", "left", "full"] = "std"
    """GaLore: side that is projected"""
    galore_optim_per_parameter: bool = False
    """GaLore: step each parameter as soon as its gradient is there; saves memory, forbids accumulation"""


@dataclass(frozen=True)
class TrainFlags:
    """Training"""

    sft_type: SftType = flag("lora", alias=("tuner_type", "train_type"), values={"bone": "miss"})
    """What is trained; swift tuners explains the choices"""
    tuner_backend: Literal["swift", "peft", "unsloth"] = "swift"
    """What computes LoRA and full fine-tuning: swift is faster on a CPU where it knows the model, peft takes the layers
    of PEFT and transformers; the files are the same"""
    attn_impl: Literal["AUTO", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = flag(
        "AUTO", alias=("attn_implementation",), values={"flash_attn": "flash_attention_2"}
    )
    """How attention is computed; AUTO takes what suits the model and the hardware"""
    use_flash_attn: bool = False
    """Older switch for attn_impl flash_attention_2"""
    use_liger_kernel: bool = False
    """Take Liger's fused kernels (a GPU, and pip install liger-kernel)"""
    torch_compile: bool = False
    """Compile the model: a slow first step, faster ones after it; on a CPU it needs a C++ compiler"""
    output_dir: str = "output"
    """Folder for checkpoints and reports"""
    add_output_dir_suffix: bool = True
    """Add MODEL/vN-TIME to output_dir"""
    resume_from_checkpoint: str | None = flag(None, bare="newest")
    """Checkpoint to go on from; the flag alone takes the newest whole one"""
    seed: int = 42
    """Seed of start values, order of rows and dropout"""
    batch_size: int = flag(1, alias=("per_device_train_batch_size",))
    """Rows a device takes at once in training"""
    eval_batch_size: int | None = flag(None, alias=("per_device_eval_batch_size",))
    """Rows a device takes at once in evaluation; none means batch_size"""
    gradient_accumulation_steps: int | None = None
    """Batches to a step; none makes steps of 16 rows over all devices, or of fewer where that leaves under 200 steps"""
    num_train_epochs: float | None = None
    """Passes over the data; none means 1, or as many as make about 200 steps, up to 30"""
    max_steps: int = -1
    """Steps to train; -1 lets num_train_epochs decide"""
    max_minutes: float | None = None
    """Stop, and save, after this time; none trains to the end"""
    learning_rate: float | None = None
    """Peak learning rate; none means 1e-4 for LoRA and 1e-5 for the whole model"""
    weight_decay: float = 0.01
    """Weight decay"""
    max_grad_norm: float = 0.5
    """Norm that gradients are clipped to"""
    warmup_ratio: float = 0.05
    """Share of the steps over which the learning rate rises"""
    warmup_steps: int = 0
    """Steps over which the learning rate rises; above 0 it replaces warmup_ratio"""
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
    ] = "linear"
    """Course of the learning rate after warm-up"""
    optim: str = "adamw_torch"
    """Optimizer, by its name in transformers"""
    adam_beta1: float = 0.9
    """Adam beta1"""
    adam_beta2: float = 0.999
    """Adam beta2"""
    adam_epsilon: float = 1e-8
    """Adam epsilon"""
    gradient_checkpointing: bool | None = None
    """Compute activations again instead of keeping them; none does so on GPUs"""
    neftune_noise_alpha: float | None = flag(None, alias=("neftune_alpha",))
    """Strength of the noise added to embeddings (NEFTune); none adds none"""
    eval_strategy: Literal["steps", "epoch", "no"] = flag("steps", alias=("evaluation_strategy",))
    """When to evaluate"""
    eval_steps: int = 50
    """Steps between evaluations"""
    save_strategy: Literal["steps", "epoch", "no"] = "steps"
    """When to save"""
    save_steps: int | None = None
    """Steps between checkpoints; none means eval_steps"""
    save_total_limit: int = 2
    """Checkpoints to keep, the best and the last always among them; -1 keeps all"""
    save_only_model: bool | None = flag(None, alias=("only_save_model",))
    """Save no optimizer state; none means false for LoRA and true for the whole model"""
    logging_steps: int = 5
    """Steps between log lines"""
    logging_dir: str | None = None
    """Folder for TensorBoard; none means runs/ in the output folder"""
    report_to: tuple[str, ...] = flag(("tensorboard",), commas=True)
    """Trackers to report to, by their names in transformers, or none"""
    disable_tqdm: bool = False
    """Show no progress bar"""
    preprocess_num_proc: int | None = flag(None, alias=("dataset_num_proc",))
    """Processes that turn rows into tokens; none means one a core where rows are many"""
    dataloader_num_workers: int = 0
    """Processes that make batches; 0 makes them in the training process"""
    ddp_backend: Literal["nccl", "gloo", "mpi", "ccl"] | None = None
    """How processes talk; none means nccl on GPUs and gloo on CPUs"""
    ddp_find_unused_parameters: bool | None = None
    """Look for parameters without a gradient at every step; none means not"""


@dataclass(frozen=True)
class FeedFlags:
    """Large data"""

    streaming: bool = False
    """Read, tokenise and shuffle rows while training, for data larger than memory; needs --max_steps"""
    shuffle_buffer_size: int = 1000
    """streaming: rows that the next one is drawn from"""
    token_cache: str | None = flag(None, alias=("cached_dataset",), bare="true")
    """Folder that keeps tokenised rows for the next start of the same run; true takes ~/.cache/swift/tokens"""
    lazy_tokenize: bool = False
    """Tokenise rows when they are trained on, not beforehand"""


@dataclass(frozen=True)
class ScaleFlags:
    """Several devices"""

    fsdp: str = ""
    """Shard the model over processes with FSDP2: 'full_shard auto_wrap', shard_grad_op, offload; none takes DDP"""
    fsdp_config: str | None = None
    """JSON file or text with FSDP2's settings: auto_wrap_policy, min_num_params, transformer_layer_cls_to_wrap ..."""
    deepspeed: str | None = flag(None, alias=("deepspeed_config_path",))
    """Train with DeepSpeed: default-zero2, default-zero3, zero2_offload, zero3_offload, a JSON file or JSON text"""
    device_map: str | None = flag(None, alias=("device_map_config_path", "device_map_config"))
    """Layers of one process on several devices: auto, balanced, sequential, a JSON file or text {"lm_head": 0, ...}"""


@dataclass(frozen=True)
class GenerationFlags:
    """Generation"""

    max_new_tokens: int = 2048
    """Most tokens in a reply"""
    do_sample: bool = True
    """Draw tokens; false always takes the likeliest"""
    temperature: float = 0.3
    """Sharpness of the draw; 0 always takes the likeliest token"""
    top_k: int = 20
    """Draw among so many likeliest tokens"""
    top_p: float = 0.7
    """Draw among the likeliest tokens that hold this much probability together"""
    repetition_penalty: float = 1.0
    """Above 1, tokens seen before become less likely"""
    seed: int = 42
    """Seed of the draw"""
    stop_words: tuple[str, ...] = ()
    """Texts that end a reply, beside the template's own"""
    stream: bool = True
    """Show a reply while it is made"""


@dataclass(frozen=True)
class VllmFlags:
    """vLLM"""

    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory (on a CPU, of the machine's) that vLLM may take"""
    tensor_parallel_size: int = flag(1, alias=("vllm_tensor_parallel_size",))
    """Devices that share each layer"""
    data_parallel_size: int = flag(1, alias=("vllm_data_parallel_size",))
    """Copies of the model that share the requests"""
    max_model_len: int | None = flag(None, alias=("vllm_max_model_len",))
    """Most tokens of prompt and reply together; none means the model's context"""
    enforce_eager: bool = flag(False, alias=("vllm_enforce_eager",))
    """Compile nothing: a quicker start, slower replies"""
    vllm_enable_lora: bool = False
    """Keep an adapter beside the weights instead of merging it"""
    vllm_max_lora_rank: int = 16
    """Highest rank of an adapter beside the weights"""


@dataclass(frozen=True)
class BackendFlags:
    """Weights and engine"""

    ckpt_dir: str | None = flag(None, alias=("adapters",))
    """Checkpoint that training saved"""
    load_args_from_ckpt_dir: bool = True
    """Take model, template and system from the checkpoint's sft_args.json where no flag says otherwise"""
    merge_lora: bool = flag(False, alias=("merge_lora_and_save",))
    """Merge the adapter into the weights, in a folder beside the checkpoint, and use that"""
    infer_backend: Literal["AUTO", "pt", "vllm", "openvino"] = flag("AUTO", values={"transformers": "pt"})
    """Engine: pt (PyTorch), vllm, openvino (CPUs); AUTO takes vllm on GPUs where it is installed and has the model"""
    max_batch: int = 16
    """Most requests that are answered together by pt"""
    vllm: VllmFlags = VllmFlags()


def check_guide(guided_tools: bool, backend: BackendFlags) -> None:
    """ValueError where the engine cannot hold replies to rules."""
    if guided_tools and backend.infer_backend == "openvino":
        raise ValueError("--guided_tools true is not for --infer_backend openvino: take pt or vllm")
