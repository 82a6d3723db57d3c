"""What keys of PEFT's LoraConfig, transformers' TrainingArguments, TRL and bitsandbytes are called in a recipe.

They are refused like every unknown key; the message names the key to write instead.
"""

from __future__ import annotations

from typing import NamedTuple


class Counterpart(NamedTuple):
    """What a setting of another library is called here.

    `key` is the recipe's key without places in lists (`methods.rank`), an option of the command line (`--out`), or
    empty where there is nothing to set; `note` says what to write there, or why there is nothing to set.
    """

    key: str
    note: str = ""


_BATCH = Counterpart(
    "train.batch_tokens",
    "It counts the tokens of one optimiser step; micro-batch size and gradient accumulation are chosen by memory",
)
_BUDGET_EPOCHS = Counterpart("train.budget", "Write an amount with its unit: `2 epochs`")
_BUDGET_STEPS = Counterpart("train.budget", "Write an amount with its unit: `300 steps`")
_WARMUP = Counterpart("train.warmup", "It is a share of the steps, 3%, or an amount, 10 steps")
_BETAS = Counterpart("train.betas", "Write both: [0.9, 0.999]")
_PRECISION = Counterpart("train.precision", "Write bf16, fp16 or fp32")
_EVAL_AT = Counterpart("train.eval_at", "It lists shares of the budget: [50%, 100%]")
_CHECKPOINTS = Counterpart("--checkpoint-every", "it takes a time, such as 10m")
_GRADIENT_CHECKPOINTING = Counterpart(
    "", "gradient checkpointing is chosen by memory; `peftodyssey plan` shows what was chosen"
)
_OFFLOAD = Counterpart("", "offloading is chosen by memory; `peftodyssey plan` shows what was chosen")
_FOUR_BITS = Counterpart("methods.quant", "Write the method qlora, or quant: nf4 with lora")
_SFT = Counterpart("train.objective", "Write sft, which learns answers only")
_THROUGH_PEFT = Counterpart("methods.config", "Write {method: peft, peft_type: LORA, config: {...}}")
_RESUMES = Counterpart("", "a run that is started again resumes from its last checkpoint")
_SEQ_LEN = Counterpart("train.seq_len")
_MODEL = Counterpart("model.name")

FOREIGN_NAMES: dict[str, Counterpart] = {
    # PEFT: LoraConfig
    "r": Counterpart("methods.rank"),
    "lora_alpha": Counterpart("methods.alpha"),
    "lora_dropout": Counterpart("methods.dropout"),
    "target_modules": Counterpart("methods.targets"),
    "use_rslora": Counterpart("methods.rslora"),
    "use_dora": Counterpart("methods.dora"),
    "init_lora_weights": Counterpart("methods.init", "`true` is called default"),
    "base_model_name_or_path": _MODEL,
    "revision": Counterpart("model.revisions"),
    **dict.fromkeys(
        (
            "alpha_pattern",
            "bias",
            "exclude_modules",
            "fan_in_fan_out",
            "layer_replication",
            "layers_pattern",
            "layers_to_transform",
            "lora_bias",
            "modules_to_save",
            "rank_pattern",
            "target_parameters",
            "trainable_token_indices",
        ),
        _THROUGH_PEFT,
    ),
    # transformers: TrainingArguments
    "output_dir": Counterpart("--out"),
    "run_name": Counterpart("name"),
    "learning_rate": Counterpart("methods.lr"),
    "per_device_train_batch_size": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "auto_find_batch_size": _BATCH,
    "num_train_epochs": _BUDGET_EPOCHS,
    "max_steps": _BUDGET_STEPS,
    "warmup_ratio": _WARMUP,
    "warmup_steps": _WARMUP,
    "lr_scheduler_type": Counterpart("train.schedule"),
    "optim": Counterpart("train.optimizer"),
    "adam_beta1": _BETAS,
    "adam_beta2": _BETAS,
    "max_grad_norm": Counterpart("train.grad_clip"),
    "bf16": _PRECISION,
    "fp16": _PRECISION,
    "gradient_checkpointing": _GRADIENT_CHECKPOINTING,
    "activation_checkpointing": _GRADIENT_CHECKPOINTING,
    "evaluation_strategy": _EVAL_AT,
    "eval_strategy": _EVAL_AT,
    "eval_steps": _EVAL_AT,
    "save_strategy": _CHECKPOINTS,
    "save_steps": _CHECKPOINTS,
    "save_total_limit": Counterpart("--keep", "it takes adapters, best or all"),
    "per_device_eval_batch_size": Counterpart("", "how many windows are scored at a time is chosen by memory"),
    "early_stopping_patience": Counterpart("methods.early_stop.patience"),
    "seed": Counterpart("seeds"),
    "data_seed": Counterpart("seeds"),
    "use_cpu": Counterpart("--device", "it takes auto, cpu or cuda"),
    "resume_from_checkpoint": _RESUMES,
    "do_train": Counterpart("", "every method but `saved` is trained"),
    "do_eval": Counterpart("", "every cell is evaluated"),
    # TRL: SFTConfig, ModelConfig, ScriptArguments
    "max_length": _SEQ_LEN,
    "max_seq_length": _SEQ_LEN,
    "packing": Counterpart("", "text is always packed into sequences of seq_len tokens"),
    "eval_packing": Counterpart("", "every document is scored by itself, in windows of score.context tokens"),
    "dataset_name": Counterpart("domains.source", "Write hub:<dataset>"),
    "dataset_config": Counterpart("domains.config"),
    "dataset_train_split": Counterpart("domains.split.train"),
    "dataset_test_split": Counterpart("domains.split.test"),
    "dataset_text_field": Counterpart("domains.field"),
    "chat_template_path": Counterpart("train.chat_template"),
    "assistant_only_loss": _SFT,
    "completion_only_loss": _SFT,
    "truncation_mode": Counterpart("train.too_long"),
    "activation_offloading": _OFFLOAD,
    "model_name_or_path": _MODEL,
    "pretrained_model_name_or_path": _MODEL,
    "model_revision": Counterpart("model.revisions"),
    "dtype": _PRECISION,
    "torch_dtype": _PRECISION,
    "use_peft": Counterpart("methods.method", "Write lora, qlora or another method"),
    "lora_r": Counterpart("methods.rank"),
    "lora_target_modules": Counterpart("methods.targets"),
    # bitsandbytes
    "load_in_4bit": _FOUR_BITS,
    "load_in_8bit": Counterpart("methods.quant", "Write quant: int8 with lora"),
    "bnb_4bit_quant_type": _FOUR_BITS,
    "bnb_4bit_use_double_quant": Counterpart("methods.double_quant"),
    "use_bnb_nested_quant": Counterpart("methods.double_quant"),
    "bnb_4bit_compute_dtype": _PRECISION,
    # Other trainers
    "lora_rank": Counterpart("methods.rank"),
    "base_model": _MODEL,
    "dataset": Counterpart("domains"),
    "datasets": Counterpart("domains"),
    "sequence_len": _SEQ_LEN,
    "batch_size": _BATCH,
    "micro_batch_size": _BATCH,
    "epochs": _BUDGET_EPOCHS,
    "num_epochs": _BUDGET_EPOCHS,
}

# The recipe of a ladder: the names of a Llama's config.json, and what training is called elsewhere.
LADDER_NAMES: dict[str, Counterpart] = {
    "num_hidden_layers": Counterpart("model.layers"),
    "hidden_size": Counterpart("model.width"),
    "num_attention_heads": Counterpart("model.heads"),
    "num_key_value_heads": Counterpart("model.kv_heads"),
    "intermediate_size": Counterpart("model.feed_forward"),
    "vocab_size": Counterpart("model.vocabulary"),
    "max_position_embeddings": Counterpart("model.positions"),
    "tie_word_embeddings": Counterpart("model.tied"),
    "initializer_range": Counterpart("model.init_std"),
    "learning_rate": Counterpart("train.peak_lr"),
    "lr": Counterpart("train.peak_lr"),
    "per_device_train_batch_size": Counterpart("train.micro_batch_size"),
    "gradient_accumulation_steps": Counterpart("train.batch_tokens", "It counts the tokens of one optimiser step"),
    "max_steps": Counterpart("rungs", "The largest budget says how long is trained"),
    "torch_compile": Counterpart("train.compile"),
    **{
        name: FOREIGN_NAMES[name]
        for name in ("adam_beta1", "adam_beta2", "bf16", "max_grad_norm", "max_length", "output_dir", "save_steps")
    },
}

# Settings of those libraries without a counterpart here: what they ask for is not done, or is done in one way only.
_WITHOUT_COUNTERPART = """
adam_epsilon label_smoothing_factor lr_scheduler_kwargs optim_args optim_target_modules neftune_noise_alpha
average_tokens_across_devices bf16_full_eval fp16_full_eval tf32 torch_compile torch_compile_backend
torch_compile_mode use_liger_kernel liger_kernel_config use_cache torch_empty_cache_steps
gradient_checkpointing_kwargs activation_checkpointing_kwargs full_determinism ignore_data_skip
accelerator_config parallelism_config fsdp fsdp_config deepspeed ddp_backend ddp_broadcast_buffers
ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout local_rank
dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers
dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor remove_unused_columns
label_names length_column_name train_sampling_strategy debug skip_memory_metrics do_predict
disable_tqdm log_level log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter logging_steps
logging_strategy include_num_input_tokens_seen report_to project trackio_bucket_id trackio_space_id
trackio_static_space_id batch_eval_metrics eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start
eval_use_gather_object include_for_metrics prediction_loss_only greater_is_better load_best_model_at_end
metric_for_best_model enable_jit_checkpoint restore_callback_states_from_checkpoint save_on_each_node
save_only_model hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token push_to_hub
dataset_kwargs dataset_num_proc dataset_streaming eos_token ignore_bias_buffers loss_type model_init_kwargs
packing_strategy pad_to_multiple_of pad_token padding_free router_aux_loss_coef shuffle_dataset trust_remote_code
attn_implementation lora_modules_to_save lora_target_parameters lora_task_type
bnb_4bit_quant_storage llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight llm_int8_skip_modules
llm_int8_threshold auto_mapping inference_mode peft_version task_type runtime_config megatron_config megatron_core
alora_invocation_tokens arrow_config corda_config ensure_weight_tying eva_config kasa_config loftq_config
lora_ga_config monteclora_config qalora_group_size use_bdlora use_qalora velora_config
"""
NO_COUNTERPART = frozenset(_WITHOUT_COUNTERPART.split())
