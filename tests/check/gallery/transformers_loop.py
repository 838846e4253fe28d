"""A small language model in the HF Trainer, with padded texts of unequal length. Its loss is found without being told."""

import sys
import tempfile

import torch
import transformers

BUG = sys.argv[1] if len(sys.argv) > 1 else ""


class Texts(torch.utils.data.Dataset):
    def __init__(self, samples):
        g = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(3, 40, (samples, 12), generator=g)
        self.lengths = torch.randint(2, 13, (samples,), generator=g)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        is_padding = torch.arange(12) >= self.lengths[index]
        return {
            "input_ids": self.tokens[index].masked_fill(is_padding, 0),
            "attention_mask": (~is_padding).long(),
            "labels": self.tokens[index].masked_fill(is_padding, -100),
        }


def llama():
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        attention_dropout=0.1,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=12, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def main():
    torch.manual_seed(0)
    model = gpt2() if BUG == "gpt2" else llama()
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            lr_scheduler_type="constant",
            label_smoothing_factor=0.1 if BUG == "label_smoothing" else 0.0,
            **({"average_tokens_across_devices": False} if BUG == "mean_of_means" else {}),
        )
        transformers.Trainer(model, settings, train_dataset=Texts(64)).train()


main()
